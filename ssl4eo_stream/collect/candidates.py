"""Places that a plan may take, without end, in blocks: around cities, over an area, or as given.

Of one seed they are one sequence, whatever number is taken of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from pyproj import Geod

from ssl4eo_stream.collect.areas import Area
from ssl4eo_stream.collect.cities import Cities
from ssl4eo_stream.collect.tables import number, read_rows
from ssl4eo_stream.errors import PlanError

BLOCK = 16_384
"""Places at a time; the sequence does not depend on it."""
DECIMALS = 6
"""Of a degree, in a plan: 0.1 m. Places are rounded before they are compared."""
WGS84 = Geod(ellps="WGS84")


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """A block of places, in order."""

    lon: Float64[np.ndarray, " n"]
    """Longitudes, degrees, [-180, 180), rounded to `DECIMALS`."""
    lat: Float64[np.ndarray, " n"]
    """Latitudes, degrees, [-90, 90], rounded likewise."""
    city: list[str]
    """The city each was drawn around, or empty."""
    inside: Bool[np.ndarray, " n"]
    """Which lie where they should; others only count."""
    ids: list[int] | None = None
    """Ids that were given, if any were."""


def around(cities: Cities, *, sigma_metres: float, seed: int) -> Iterator[Candidates]:
    """Draw cities, each as likely as the others, and places around them, as the paper does.

    The way from the city is a geodesic of WGS84 in any direction, as long as the radius of an
    isotropic Gaussian (Rayleigh's): `sigma_metres` on the ground, east as north, at any latitude.
    """
    random = np.random.default_rng(seed)
    while True:
        chances = random.random((BLOCK, 3))
        which = (chances[:, 0] * len(cities.names)).astype(np.int64)
        metres = sigma_metres * np.sqrt(-2 * np.log1p(-chances[:, 1]))
        lon, lat, _ = WGS84.fwd(
            cities.lon[which], cities.lat[which], 360 * chances[:, 2], metres
        )  # fmt: skip
        lon, lat = _rounded(np.asarray(lon), np.asarray(lat))
        yield Candidates(
            lon=lon,
            lat=lat,
            city=[cities.names[i] for i in which.tolist()],
            inside=np.ones(BLOCK, dtype=np.bool_),
        )


def over(area: Area, *, seed: int) -> Iterator[Candidates]:
    """Draw places evenly over an area; those beside it are not `inside`."""
    random = np.random.default_rng(seed)
    while True:
        lon, lat, inside = area.draw(random.random((BLOCK, 3)))
        lon, lat = _rounded(lon, lat)
        yield Candidates(lon=lon, lat=lat, city=[""] * BLOCK, inside=inside)


def read_points(path: Path) -> Candidates:
    """Read places from a table with `lon` and `lat`, degrees; `id` and `city` if it has them.

    Raises:
        PlanError: The table can't be read, is empty, a field is wrong, or an id is there twice.
    """
    lons, lats, city, ids = [], [], [], {}
    for line, row in read_rows(path, columns=("lon", "lat")):
        lons.append(number(row, "lon", path=path, line=line, low=-180.0, high=180.0))
        lats.append(number(row, "lat", path=path, line=line, low=-90.0, high=90.0))
        city.append(row.get("city") or "")
        if "id" in row:
            value = row["id"] or ""
            if not (value.isascii() and value.isdecimal()):
                raise PlanError(
                    f"{path}, line {line}, column id: {value!r} is no whole number of 0 or more. "
                    "Mend it, or remove the column: locations are numbered then."
                )
            if int(value) in ids:
                raise PlanError(
                    f"{path}, line {line}, column id: {value} is the id of line "
                    f"{ids[int(value)]} too. Give every location its own."
                )
            ids[int(value)] = line
    if not lons:
        raise PlanError(f"{path} has no locations below its header. Give a list that has.")
    lon, lat = _rounded(np.array(lons, dtype=np.float64), np.array(lats, dtype=np.float64))
    return Candidates(
        lon=lon,
        lat=lat,
        city=city,
        inside=np.ones(len(lon), dtype=np.bool_),
        ids=list(ids) or None,
    )


def _rounded(
    lon: Float64[np.ndarray, " n"], lat: Float64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Return both as a plan has them; adding 0 turns -0 into 0."""
    lon = np.round(lon, DECIMALS) + 0.0
    lon[lon >= 180] -= 360
    return lon, np.round(lat, DECIMALS) + 0.0
