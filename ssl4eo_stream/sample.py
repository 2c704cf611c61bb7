"""The records that flow from a source to the shards: one place, and the dates it was seen on."""

import csv
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ssl4eo_stream.errors import SourceError


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """One product of one place on one date, still in its source files."""

    name: str
    """Acquisition (scene) id: the name of its folder."""
    time: datetime
    """Sensing time, UTC; midnight where the source knows the day alone."""
    cloud_percent: float | None
    """Cloud cover of the whole scene in percent; None where the source has none (Sentinel-1)."""
    properties: dict[str, str | int | float | bool]
    """Further metadata worth keeping, under its source's names."""
    bands: tuple[Path, ...]
    """GeoTIFF of each band, in the product's band order."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """One place of one product with all its dates."""

    id: int
    """Number of the location, the same in all products."""
    lon: float
    """Longitude of the patch centre, degrees (WGS 84)."""
    lat: float
    """Latitude of the patch centre, degrees (WGS 84)."""
    acquisitions: tuple[Acquisition, ...]
    """Its dates, in order of time."""

    @property
    def key(self) -> str:
        """The id as shards spell it: seven digits."""
        return location_key(self.id)


def location_key(number: int) -> str:
    """Return a location id as shards spell it: seven digits."""
    return f"{number:07d}"


def read_ids(path: Path) -> set[int]:
    """Read location ids from a CSV file: its column `id`, or the first one if it has no header.

    Raises:
        SourceError: The file can't be read, or a line holds no id.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: no list of location ids can be read: {error}.") from error
    column, first = 0, 0
    if rows and not rows[0][0].strip().isdecimal():
        if "id" not in rows[0]:
            raise SourceError(f"{path}: line 1 has neither an id nor a column named id: {rows[0]}.")
        column, first = rows[0].index("id"), 1
    ids: set[int] = set()
    for number, row in enumerate(rows[first:], start=first + 1):
        if column >= len(row) or not row[column].strip().isdecimal():
            raise SourceError(f"{path}: row {number} has no location id: {row}. Write digits.")
        ids.add(int(row[column]))
    if not ids:
        raise SourceError(f"{path} holds no location ids. Write one a line.")
    return ids
