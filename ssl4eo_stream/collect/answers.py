"""Earth Engine's answers, checked: scenes it tells of, and patches it cuts from them."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from jaxtyping import Num

from ssl4eo_stream.bands import PATCH_METRES, PRODUCTS, Grid, Product
from ssl4eo_stream.collect.scene import Box, Scene
from ssl4eo_stream.errors import ServiceError, SourceError
from ssl4eo_stream.geotiff import read_raster

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FOOTPRINT_METRES = PATCH_METRES / 2 + 180
"""What a footprint has to hold north, south, east and west of a place: a patch that is moved by up
to 30 m to the pixels' edges of the 60 m grid, and turned by up to 6.5 degrees, the angle between a
UTM grid and north at the far side of the tiles that reach into the next zone."""
METRES_PER_DEGREE = 110_574
"""Of latitude at the equator, where it is shortest (WGS 84)."""


def square_around(lon: float, lat: float) -> tuple[float, float, float, float]:
    """Return west, south, east and north, in degrees, of what a footprint has to hold."""
    high = FOOTPRINT_METRES / METRES_PER_DEGREE
    wide = high / math.cos(math.radians(lat))
    return lon - wide, lat - high, lon + wide, lat + high


def scene_of(image: Mapping[str, Any], *, product: Product, collection: str) -> Scene:
    """Return a scene as Earth Engine tells of it.

    Args:
        image: Its `bands` and `properties`, as in an answer.
        product: What it is of.
        collection: Where it lies.

    Raises:
        ServiceError: It lacks a property or a band, or its bands lie on another grid than theirs.
    """
    try:
        properties = image["properties"]
        name = properties["system:index"]
        id_ = f"{collection}/{name}"
        bands = {band["id"]: band for band in image["bands"]}
        crs, first = bands[product.names[0]]["crs"], bands[product.names[0]]["crs_transform"]
        for band in product.bands:
            step = band.resolution_metres
            there = (bands[band.name]["crs"], *bands[band.name]["crs_transform"])
            if there != (crs, step, 0, first[2], 0, -step, first[5]):
                raise ServiceError(
                    f"{id_}, band {band.name}: its grid is {there}; it should be of {step} m, and "
                    f"begin where the first band does, {crs} ({first[2]}, {first[5]})."
                )
        optical = product.name != "s1"
        way = properties.get("SENSING_ORBIT_DIRECTION" if optical else "orbitProperties_pass")
        return Scene(
            product=product.name,
            id=id_,
            name=name,
            time=EPOCH + timedelta(milliseconds=properties["system:time_start"]),
            cloud_percent=float(properties["CLOUDY_PIXEL_PERCENTAGE"]) if optical else None,
            datatake=properties["DATATAKE_IDENTIFIER"].rpartition("_N")[0] if optical else None,
            ascending=None if way is None else way == "ASCENDING",
            epsg=int(crs.removeprefix("EPSG:")),
            left=float(first[2]),
            top=float(first[5]),
            properties={**properties, "system:id": id_},
        )
    except (KeyError, ValueError) as error:
        raise ServiceError(
            f"An image of {collection} is told of in another way than it should be: {error!r}, in "
            f"{str(image)[:200]}."
        ) from error


def pixels_of(data: bytes, *, grid: Grid, scene: Scene, box: Box) -> Num[np.ndarray, "c h w"]:
    """Return the pixels of an answer, if they are those that were asked for.

    Args:
        data: GeoTIFF.
        grid: Which bands, and at which resolution.
        scene: Of which scene.
        box: Where.

    Raises:
        ServiceError: They have another size, type or place, or can't be read.
    """
    product, size, step = PRODUCTS[scene.product], grid.pixels, grid.resolution_metres
    what = f"Earth Engine's answer of {len(data):,} bytes for {scene.id} at {step} m"
    try:
        pixels, epsg, transform = read_raster(data, name=what)
    except SourceError as error:
        raise ServiceError(str(error)) from error
    came = (pixels.shape, pixels.dtype.name, epsg)
    asked = ((len(grid.channels), size, size), product.dtype, box.epsg)
    place = (step, 0, box.left, 0, -step, box.top)
    if came != asked or not np.allclose(transform, place, rtol=0, atol=0.01):  # a centimetre
        raise ServiceError(
            f"{what} is not what was asked for: shape, type, EPSG code and transformation should "
            f"be {(*asked, place)}, and are {(*came, transform)}. Nothing of it was kept."
        )
    return pixels
