"""One location: search, choose, cut; and choose again where what was cut is of no use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ssl4eo_stream.bands import PRODUCTS, ProductName
from ssl4eo_stream.collect.choice import Rejection, Wish, choose
from ssl4eo_stream.collect.scene import ImageService, Scene, Window, box_around
from ssl4eo_stream.collect.taken import Place, Taken
from ssl4eo_stream.collect.windows import Calendar

Missing = Literal["next", "reject", "record"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be had of every location."""

    wish: Wish
    """Which scenes."""
    calendar: Calendar
    """When."""
    missing: Missing = "next"
    """What to do about a patch with missing pixels, at the edge of a swath for example. `next`:
    take the next best scene, and reject the location where there is none. `reject`: reject it at
    once. `record`: keep it, and say in its metadata how many are missing."""


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The work was called off."""


def fetch(
    place: Place,
    service: ImageService,
    *,
    request: Request,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[ProductName, list[Taken]] | Rejection:
    """Take one patch of each product for each date.

    The year before is searched for those dates alone that the year itself leaves empty, and no
    scene is asked for twice.

    Args:
        place: Where.
        service: Who has images.
        request: Which.
        stopped: Asked before every request whether to go on.

    Returns:
        The patches of each product in order of dates, or why the location can't be had.

    Raises:
        ServiceError: The service refuses, or does not answer for too long.
        Stopped: It was called off.
    """
    wish = request.wish
    early = request.calendar.windows(place.id, years_before=1)
    windows = [[window] for window in request.calendar.windows(place.id)]
    found: dict[ProductName, list[Scene]] = {product: [] for product in wish.products}

    def search(asked: list[Window]) -> None:
        for product in wish.products:
            _go_on(stopped)
            found[product] += service.scenes(
                PRODUCTS[product], lon=place.lon, lat=place.lat, windows=asked
            )

    search([window for (window,) in windows])
    patches: dict[str, Taken] = {}
    useless: set[str] = set()
    while True:
        choice = choose(found, windows, wish=wish, without=useless)
        if isinstance(choice, Rejection):
            if not (unsearched := [i for i in choice.lacking if len(windows[i]) == 1]):
                return choice
            search([early[i] for i in unsearched])
            for i in unsearched:
                windows[i].append(early[i])
            continue
        for position, scene in (
            (position, scene) for position, date in enumerate(choice) for scene in date.values()
        ):
            if scene.id not in patches:
                _go_on(stopped)
                box = box_around(scene, lon=place.lon, lat=place.lat)
                pixels = service.pixels(scene, box)
                patches[scene.id] = Taken(scene=scene, box=box, pixels=pixels)
            if patches[scene.id].pixels.missing and request.missing != "record":
                if request.missing == "reject":
                    return Rejection(
                        reason=f"missing pixels in {scene.product} on date {position + 1}"
                    )
                useless.add(scene.id)
                del patches[scene.id]
                break
        else:
            return {p: [patches[date[p].id] for date in choice] for p in wish.products}


def _go_on(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Stopped
