"""Which part of a plan a download is to collect, and where it keeps what became of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.collect.candidates import read_points
from ssl4eo_stream.collect.taken import Place
from ssl4eo_stream.errors import PlanError, StorageError

LARGEST_ID = 9_999_999
"""Ids are folders of seven digits."""
STATES = "collect*.sqlite"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of several parts of a plan, each for a run of its own that knows nothing of the others.

    Raises:
        ValueError: There is no such part.
    """

    number: int = 0
    """Which, from 0: rows whose position, from 0, leaves this remainder."""
    of: int = 1
    """How many parts."""

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise ValueError(f"{self}; give I/N with I from 0 to N - 1, as 0/4, 1/4, 2/4 and 3/4")

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read `I/N`.

        Raises:
            ValueError: It has another form.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None:
            raise ValueError(f"{text!r}; give I/N with I from 0 to N - 1, as 0/4")
        return cls(number=int(found[1]), of=int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def places(self, plan: Sequence[Place]) -> list[Place]:
        """Return its locations."""
        return list(plan[self.number :: self.of])

    def share(self, n: int) -> int:
        """Return how many of `n` locations it is to collect; those of all parts add up to them."""
        return n // self.of + (self.number < n % self.of)

    def state_path(self, dest: Path) -> Path:
        """Return where it keeps what became of its locations, in a folder made if it is missing.

        Raises:
            PlanError: The folder is collected in other parts, or holds locations from elsewhere,
                which a download would replace.
            StorageError: The folder can't be made.
        """
        try:
            dest.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{dest} can't be made: {error.strerror}. Name a folder that may be yours."
            ) from error
        name = "collect.sqlite" if self.of == 1 else f"collect-{self.number}-of-{self.of}.sqlite"
        known = [path.name for path in sorted(dest.glob(STATES))]
        ours = re.compile(
            r"collect\.sqlite" if self.of == 1 else rf"collect-\d+-of-{self.of}\.sqlite"
        )
        if others := [each for each in known if not ours.fullmatch(each)]:
            raise PlanError(
                f"{dest} holds {others[0]}: it is collected in other parts than --part {self}. Go "
                "on with the same parts, or give another DEST."
            )
        if not known:
            for product in PRODUCTS:
                if (dest / product).is_dir() and any((dest / product).iterdir()):
                    raise PlanError(
                        f"{dest / product} is not empty, and no {name} says that a download put it "
                        "there. Give another DEST: nothing is replaced."
                    )
        return dest / name


def read_plan(path: Path) -> list[Place]:
    """Read the locations of a plan; without a column `id` they are numbered from 0.

    Raises:
        PlanError: It can't be read, or an id is too large.
    """
    found = read_points(path)
    ids = found.ids or range(len(found.lon))
    if max(ids) > LARGEST_ID:
        raise PlanError(
            f"{path} has the id {max(ids)}; ids are folders of seven digits, so give 0 to "
            f"{LARGEST_ID}, or remove the column: locations are numbered then."
        )
    return [
        Place(id=number, lon=lon, lat=lat)
        for number, lon, lat in zip(ids, found.lon.tolist(), found.lat.tolist(), strict=True)
    ]
