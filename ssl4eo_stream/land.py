"""The outline of the land, as it comes with the package: for maps, and to leave out the sea."""

import json
from functools import cache
from importlib.resources import files


@cache
def land() -> list[list[list[list[float]]]]:
    """Return the polygons of all land: rings of (longitude, latitude), degrees, WGS84.

    The first ring of a polygon is its shore, others are holes. Natural Earth's 1:110m land, thinned
    to 0.15 degrees: small islands are not in it, and shores are off by up to some 20 km.
    """
    text = files("ssl4eo_stream").joinpath("land.geojson").read_text(encoding="utf-8")
    polygons = json.loads(text)["geometry"]["coordinates"]
    return [[[[float(lon), float(lat)] for lon, lat in ring] for ring in p] for p in polygons]
