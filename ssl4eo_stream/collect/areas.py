"""Areas bounded by polygons: which places lie in them, and places drawn evenly over them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from jaxtyping import Bool, Float64
from shapely.errors import ShapelyError
from shapely.geometry import shape

from ssl4eo_stream.errors import PlanError
from ssl4eo_stream.land import land


class Area:
    """Polygons that do not overlap, in degrees of longitude and latitude, WGS84.

    Args:
        outline: Any number of polygons; where they overlap they are joined.
    """

    def __init__(self, outline: list[shapely.Geometry]) -> None:
        whole = shapely.union_all(outline)
        parts = shapely.get_parts(whole)
        self._parts = parts[shapely.area(parts) > 0]
        self._whole = whole
        shapely.prepare(self._parts)
        shapely.prepare(self._whole)
        west, south, east, north = shapely.bounds(self._parts).T
        self._west, self._width = west, east - west
        self._south = np.sin(np.radians(south))  # the sine of latitude is even over a sphere
        self._height = np.sin(np.radians(north)) - self._south
        sizes = np.cumsum(self._width * self._height)
        self._shares = sizes / sizes[-1]

    def holds(
        self, lon: Float64[np.ndarray, " n"], lat: Float64[np.ndarray, " n"]
    ) -> Bool[np.ndarray, " n"]:
        """Return which places, degrees, lie in it."""
        return shapely.contains_xy(self._whole, lon, lat)

    def draw(
        self, chances: Float64[np.ndarray, "n 3"]
    ) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        """Turn even random numbers of [0, 1) into places around its polygons.

        A polygon's box is drawn by its size, then a place in the box; those in the polygon are as
        many on every square kilometre (of a sphere, which is within 1 % of the ellipsoid).

        Returns:
            Longitudes, latitudes, degrees, and which places lie in the drawn polygon.
        """
        part = np.searchsorted(self._shares, chances[:, 0], side="right")
        lon = self._west[part] + chances[:, 1] * self._width[part]
        sine = self._south[part] + chances[:, 2] * self._height[part]
        lat = np.degrees(np.arcsin(np.clip(sine, -1, 1)))
        return lon, lat, shapely.contains_xy(self._parts[part], lon, lat)


def covers(footprint: dict[str, Any], ring: Sequence[Sequence[float]]) -> bool:
    """Return whether an image's footprint, a GeoJSON polygon in degrees, holds all of a ring."""
    return bool(shapely.covers(shape(footprint), shapely.Polygon(ring)))


def land_area() -> Area:
    """Return the land by the package's own outline, in which small islands are missing."""
    return Area([shapely.Polygon(rings[0], rings[1:]) for rings in land()])


def read_area(path: Path) -> Area:
    """Read the polygons of a GeoJSON file: a geometry, a feature, or a collection of either.

    Raises:
        PlanError: It can't be read, has something else or nothing in it, or a polygon is invalid,
            out of range, or across the antimeridian in one piece.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise PlanError(
            f"{path}, line {error.lineno}, column {error.colno}: no GeoJSON, {error.msg}. Mend it."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} can't be read: {error}. Give a GeoJSON file.") from error
    polygons = []
    for i, geometry in enumerate(_geometries(found, path=path), start=1):
        try:
            polygon = shape(geometry)
        except (KeyError, IndexError, TypeError, ValueError, ShapelyError) as error:
            raise PlanError(
                f"{path}, geometry {i}: its coordinates are wrong: {error}. Write it anew."
            ) from error
        west, south, east, north = polygon.bounds or (np.nan,) * 4
        if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
            raise PlanError(
                f"{path}, geometry {i} goes from {west:g} to {east:g} and {south:g} to {north:g}, "
                "not within -180 to 180 degrees of longitude and -90 to 90 of latitude. Give "
                "WGS84 degrees, and cut it in two at the antimeridian (RFC 7946)."
            )
        if not polygon.is_valid:
            raise PlanError(
                f"{path}, geometry {i} is no valid polygon: {shapely.is_valid_reason(polygon)}. "
                "Mend it, in QGIS with Fix geometries."
            )
        polygons.append(polygon)
    if not any(polygon.area for polygon in polygons):
        raise PlanError(f"{path} has no polygon in it. Give one that has.")
    return Area(polygons)


def _geometries(found: Any, *, path: Path) -> list[dict[str, Any]]:  # noqa: ANN401 (any JSON)
    """Return the polygons in what a GeoJSON file says."""
    match found:
        case {"type": "FeatureCollection", "features": [*inner]}:
            return [each for feature in inner for each in _geometries(feature, path=path)]
        case {"type": "GeometryCollection", "geometries": [*inner]}:
            return [each for geometry in inner for each in _geometries(geometry, path=path)]
        case {"type": "Feature", "geometry": inner}:
            return _geometries(inner, path=path)
        case {"type": "Polygon" | "MultiPolygon"}:
            return [found]
    kind = found.get("type") if isinstance(found, dict) else type(found).__name__
    raise PlanError(
        f"{path} has a {kind} where a Polygon or MultiPolygon belongs. Remove it, or give a list "
        "of points by --points."
    )
