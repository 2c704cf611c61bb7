"""Where a raster lies: georeference tags of GeoTIFF 1.1, made and read, and projections."""

import struct

import rasterio.errors
from rasterio.warp import transform

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.strips import GeoTags

PIXEL_SCALE, TIE_POINT, TRANSFORMATION, GEO_KEYS = 33550, 33922, 34264, 34735
MODEL_TYPE, RASTER_TYPE, PROJECTED_CRS, USER_DEFINED = 1024, 1025, 3072, 32767
"""Geo keys (GeoTIFF 1.1): geographic or projected; where in the pixel ties hold; EPSG code."""


def grid_tags(*, epsg: int, left: float, top: float, pixel_metres: int) -> GeoTags:
    """Return the tags of a grid in a projection, north up.

    Args:
        epsg: Code of the projection, its axes in metres.
        left: Easting of the left edge of the first column.
        top: Northing of the upper edge of the first row.
        pixel_metres: Side of a pixel.
    """
    keys = (1, 1, 0, 3, MODEL_TYPE, 0, 1, 1, RASTER_TYPE, 0, 1, 1, PROJECTED_CRS, 0, 1, epsg)
    return {
        PIXEL_SCALE: (12, 3, struct.pack("<3d", pixel_metres, pixel_metres, 0)),
        TIE_POINT: (12, 6, struct.pack("<6d", 0, 0, 0, left, top, 0)),
        GEO_KEYS: (3, len(keys), struct.pack(f"<{len(keys)}H", *keys)),
    }


def project(lon: float, lat: float, *, epsg: int) -> tuple[float, float]:
    """Return a position (degrees, WGS 84) in another projection: x and y in its unit.

    Raises:
        SourceError: There is no such projection, or the position is not in it.
    """
    try:
        (x,), (y,) = transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat])[:2]
    except (rasterio.errors.RasterioError, rasterio.errors.CRSError) as error:
        raise SourceError(f"EPSG:{epsg} is no projection for {lon}, {lat}: {error}") from error
    return x, y


def centre(geo: GeoTags, width: int, height: int) -> tuple[float, float]:
    """Return longitude and latitude (degrees, WGS 84) of the middle of a raster.

    Raises:
        SourceError: The tags hold no position, or a projection without an EPSG code.
    """
    values = {
        tag: struct.unpack(f"<{count}{'H' if kind == 3 else 'd'}", raw)
        for tag, (kind, count, raw) in geo.items()
        if kind in (3, 12)
    }
    numbers = values.get(GEO_KEYS, ())
    keys = {numbers[i]: numbers[i + 3] for i in range(4, len(numbers) - 3, 4)}
    shift = 0.5 if keys.get(RASTER_TYPE) == 2 else 0.0
    column, row = width / 2 - shift, height / 2 - shift
    if PIXEL_SCALE in values and TIE_POINT in values:
        (dx, dy, *_), (i, j, _, x, y, *_) = values[PIXEL_SCALE], values[TIE_POINT]
        x, y = x + (column - i) * dx, y - (row - j) * dy
    elif TRANSFORMATION in values:
        m = values[TRANSFORMATION]
        x, y = m[0] * column + m[1] * row + m[3], m[4] * column + m[5] * row + m[7]
    else:
        raise SourceError("no georeference; write lon and lat into metadata.json")
    if keys.get(MODEL_TYPE) != 1:
        return x, y
    if keys.get(PROJECTED_CRS, USER_DEFINED) == USER_DEFINED:
        raise SourceError("a projection without EPSG code; write lon and lat into metadata.json")
    (lon,), (lat,) = transform(f"EPSG:{keys[PROJECTED_CRS]}", "EPSG:4326", [x], [y])[:2]
    return lon, lat
