"""When to look: windows of thirty days, a quarter apart, by season or as the release has them.

Pure arithmetic. The paper (section III) describes 30 days around the equinoxes and solstices. The
published files are otherwise: their download shifted all four reference dates of a location back by
one number of days, drawn from 0 to 364, so that dates are a quarter apart at a phase of each
location's own, and every month is as frequent at every date.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from ssl4eo_stream.collect.scene import Window
from ssl4eo_stream.errors import PlanError

SEASONS = ((3, 20), (6, 21), (9, 22), (12, 21))
"""Month and day of the reference dates (paper, section III)."""
HALF_DAYS = 15
"""A window holds the 15 days before its reference date, that date, and 14 days after it: 30 whole
days, which is how the official download asked for them (an end date is not part of its window)."""
PHASES = 365
"""How many phases there are: 0 to 364 days."""
COMMON_YEAR = 2023
"""Any year without a 29th of February; the distance of days of the year is measured in it."""


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """Which windows a location has.

    Raises:
        PlanError: Reference dates are none, not in order, or nearer than a window is long, within
            the year or over its end: two windows would share days, and could share an image.
    """

    year: int
    """The year that is looked at first; the one before it makes up for what it lacks."""
    dates: Sequence[tuple[int, int]] = SEASONS
    """Month and day of the reference dates, in order."""
    random_phase: bool = False
    """Whether each location's dates are shifted, as in the release: then the last reference date is
    taken from the year before, as the release took 2020-12-21 with 2021-03-20, 06-21 and 09-22."""
    seed: int = 0
    """Of the phases."""

    def __post_init__(self) -> None:
        if not 2015 <= self.year <= 9999:
            raise PlanError(
                f"year {self.year}: Sentinel-2 has images since 2015; give such a year."
            )
        try:
            days = [datetime(COMMON_YEAR, month, day) for month, day in self.dates]
        except ValueError as error:
            raise PlanError(
                f"dates {_told(self.dates)}: {error}. Give days that every year has, as 03-20."
            ) from error
        if not days:
            raise PlanError("dates: there are none; give one or more, as 03-20.")
        again = days[0].replace(year=COMMON_YEAR + 1)
        for first, second in pairwise([*days, again]):
            if second - first < timedelta(days=2 * HALF_DAYS):
                raise PlanError(
                    f"dates {_told(self.dates)}: from {first:%m-%d} to {second:%m-%d} there are "
                    f"{(second - first).days} days; windows are {2 * HALF_DAYS} days long and must "
                    "not overlap, over the end of the year neither. Give them in order, further "
                    "apart."
                )

    def windows(self, location: int, *, years_before: int = 0) -> tuple[Window, ...]:
        """Return the windows of a location, in order of time.

        Args:
            location: Its id, which chooses the phase, whatever else is collected.
            years_before: 0 for the year itself, 1 for the year before it.
        """
        return self._at(self.phase(location), year=self.year - years_before)

    def phase(self, location: int) -> int:
        """Return by how many days a location's windows lie earlier: 0 to 364, or always 0."""
        if not self.random_phase:
            return 0
        digest = hashlib.sha256(f"{self.seed} {location}".encode()).digest()
        return int.from_bytes(digest) % PHASES

    @property
    def end(self) -> datetime:
        """When the last window that any location has is over, UTC."""
        return self._at(0, year=self.year)[-1].end

    def _at(self, phase: int, *, year: int) -> tuple[Window, ...]:
        references = [datetime(year, month, day, tzinfo=UTC) for month, day in self.dates]
        if self.random_phase:
            references = [references[-1].replace(year=year - 1), *references[:-1]]
        half, shift = timedelta(days=HALF_DAYS), timedelta(days=phase)
        return tuple(Window(start=day - shift - half, end=day - shift + half) for day in references)


def parse_dates(text: str) -> tuple[tuple[int, int], ...]:
    """Read `03-20,06-21` as months and days.

    Raises:
        PlanError: It has another form.
    """
    try:
        return tuple(
            (int(month), int(day))
            for month, day in (part.strip().split("-") for part in text.split(","))
        )
    except ValueError as error:
        raise PlanError(
            f"dates {text!r}: write months and days with commas between them, as 03-20,06-21."
        ) from error


def _told(dates: Sequence[tuple[int, int]]) -> str:
    return ",".join(f"{month:02d}-{day:02d}" for month, day in dates)
