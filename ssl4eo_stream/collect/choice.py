"""Which scenes: one of each product for each date, out of all that an archive has in its windows.

Pure: the same scenes in any order give the same choice. What is preferred, first to last:

1. The window of the year itself; the one a year before only where that lacks a product.
2. L1C and L2A of one datatake and tile, so that both show the same moment on the same grid; where
   no such pair is clear, the best of each.
3. One MGRS tile for all dates of a location, where one has clear scenes on all of them: tiles
   overlap by 10 km, and patches of one tile share their grid pixel by pixel, of two they may even
   be turned against each other (two UTM zones). Of several such tiles the one with fewer clouds.
4. Fewer clouds, where the release took the newest scene below the limit; then nearer to the middle
   of the window; then the name that sorts first.

Sentinel-1 is taken nearest in time to the date's Sentinel-2 (or to the middle of the window where
none is wanted): radar sees through clouds, and the two should show the same ground.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ssl4eo_stream.bands import ProductName
from ssl4eo_stream.collect.scene import Scene, Window

Orbit = Literal["asc", "desc", "any"]
Date = dict[ProductName, Scene]
"""What is taken on one date."""


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """Why a location can't be had."""

    reason: str
    """Names product and date, counted from 1; few different ones, so that they can be counted."""
    lacking: tuple[int, ...] = ()
    """Positions of the dates for which something lacks, from 0."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked of a scene."""

    products: tuple[ProductName, ...]
    """All of them have to be there on every date."""
    cloud_percent: float = 10.0
    """Sentinel-2 scenes have fewer clouds than this (paper, section III: 10)."""
    orbit: Orbit = "any"
    """Pass of Sentinel-1; the release has both, as they came."""

    @property
    def optical(self) -> tuple[ProductName, ...]:
        """The Sentinel-2 products among them."""
        return tuple(name for name in self.products if name != "s1")


def choose(
    found: Mapping[ProductName, Iterable[Scene]],
    windows: Sequence[Sequence[Window]],
    *,
    wish: Wish,
    without: Collection[str] = (),
) -> tuple[Date, ...] | Rejection:
    """Choose one scene of each product for each date.

    Args:
        found: Scenes of each product in any of the windows, in any order.
        windows: For each date the windows to look in, the preferred one first; no two overlap.
        wish: What is asked.
        without: Ids of scenes that turned out to be of no use.

    Returns:
        What is taken, date by date; or why something lacks: the first of the dates and products.
    """
    usable: dict[ProductName, list[Scene]] = {
        product: [s for s in found.get(product, ()) if s.id not in without and _fits(s, wish=wish)]
        for product in wish.products
    }
    chosen: list[tuple[Window, list[Date]]] = []
    rejections: list[tuple[int, str]] = []
    for position, tries in enumerate(windows):
        window = next((each for each in tries if _is_served(each, usable)), None)
        if window is None:
            rejections.append((position, _lack(found, usable, tries[0], wish=wish)))
        else:
            chosen.append((window, _optical(usable, window, wish=wish)))
    if rejections:
        position, lack = rejections[0]
        return Rejection(
            reason=f"no {lack} on date {position + 1}",
            lacking=tuple(position for position, _ in rejections),
        )
    tile = _common_tile([each for _, each in chosen])
    return tuple(
        _with_radar(_best(each, window, tile=tile), usable, window, wish=wish)
        for window, each in chosen
    )


def _fits(scene: Scene, *, wish: Wish) -> bool:
    if scene.product != "s1":
        return scene.cloud_percent is not None and scene.cloud_percent < wish.cloud_percent
    return wish.orbit == "any" or scene.ascending is (wish.orbit == "asc")


def _is_served(window: Window, usable: Mapping[ProductName, Sequence[Scene]]) -> bool:
    """Return whether a window has a scene of each product."""
    return all(any(window.holds(scene.time) for scene in each) for each in usable.values())


def _optical(
    usable: Mapping[ProductName, Sequence[Scene]], window: Window, *, wish: Wish
) -> list[Date]:
    """Return what Sentinel-2 can give in a window: pairs of one pass and tile if there are any."""
    inside: dict[ProductName, list[Scene]] = {
        product: [scene for scene in usable[product] if window.holds(scene.time)]
        for product in wish.optical
    }
    if not inside:
        return [{}]
    first, *others = inside
    if not others:
        return [{first: scene} for scene in inside[first]]
    (second,) = others
    pairs: list[Date] = [
        {first: one, second: other}
        for one in inside[first]
        for other in inside[second]
        if one.datatake is not None
        and one.datatake == other.datatake
        and _tile(one) == _tile(other)
    ]
    return pairs or [
        {first: one, second: other} for one in inside[first] for other in inside[second]
    ]


def _tile(scene: Scene) -> str | None:
    tile = scene.properties.get("MGRS_TILE")
    return None if tile is None else str(tile)


def _common_tile(dates: Sequence[Sequence[Date]]) -> str | None:
    """Return the tile to prefer: of those on all dates, the one whose best have fewest clouds."""
    clouds: dict[str, list[float]] = {}
    for options in dates:
        best: dict[str, float] = {}
        for option in options:
            tiles = {_tile(scene) for scene in option.values()}
            if len(tiles) == 1 and (tile := tiles.pop()) is not None:
                best[tile] = min(_clouds(option), best.get(tile, float("inf")))
        for tile, least in best.items():
            clouds.setdefault(tile, []).append(least)
    common = [(sum(each), tile) for tile, each in clouds.items() if len(each) == len(dates)]
    return min(common)[1] if common else None


def _clouds(date: Date) -> float:
    return sum((scene.cloud_percent or 0.0 for scene in date.values()), 0.0)


def _best(options: Sequence[Date], window: Window, *, tile: str | None) -> Date:
    middle = window.start + (window.end - window.start) / 2

    def order(date: Date) -> tuple[bool, float, float, list[str]]:
        return (
            any(_tile(scene) != tile for scene in date.values()) if tile is not None else False,
            _clouds(date),
            sum((abs((scene.time - middle).total_seconds()) for scene in date.values()), 0.0),
            [scene.id for scene in date.values()],
        )

    return min(options, key=order)


def _with_radar(
    date: Date, usable: Mapping[ProductName, Sequence[Scene]], window: Window, *, wish: Wish
) -> Date:
    """Add the Sentinel-1 scene nearest in time; and put products in the order of the wish."""
    both = dict(date)
    if "s1" in usable:
        seen = date.get("s2c") or date.get("s2a")
        moment = window.start + (window.end - window.start) / 2 if seen is None else seen.time
        both["s1"] = min(
            (scene for scene in usable["s1"] if window.holds(scene.time)),
            key=lambda scene: (abs((scene.time - moment).total_seconds()), scene.id),
        )
    return {product: both[product] for product in wish.products}


def _lack(
    found: Mapping[ProductName, Iterable[Scene]],
    usable: Mapping[ProductName, Sequence[Scene]],
    window: Window,
    *,
    wish: Wish,
) -> str:
    """Say which product lacks in the year's own window."""
    for product in wish.products:
        if any(window.holds(scene.time) for scene in usable[product]):
            continue
        if product == "s1":
            passes = {"asc": "ascending ", "desc": "descending ", "any": ""}
            what = f"{passes[wish.orbit]}s1"
        else:
            what = f"{product} with cloud < {wish.cloud_percent:g} %"
        fitting = any(
            window.holds(scene.time) and _fits(scene, wish=wish) for scene in found.get(product, ())
        )
        return f"{what} without missing pixels" if fitting else what
    raise AssertionError("something lacks")
