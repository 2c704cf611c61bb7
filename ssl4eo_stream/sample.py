"""The records that flow from a source to the shards: one place, and the dates it was seen on."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


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
