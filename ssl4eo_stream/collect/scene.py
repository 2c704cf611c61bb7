"""What a service of images offers, and what is taken from it: scenes, and patches cut from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Num

from ssl4eo_stream.bands import PATCH_METRES, PRODUCTS, Product, ProductName
from ssl4eo_stream.geotiff import project

MISSING = {"s1": np.float32(-9999.0), "s2a": np.uint16(65_535), "s2c": np.uint16(65_535)}
"""What stands for a pixel that was not measured, until it is stored: no backscatter is -9999 dB. A
DN of 0 would not do: it is a dark pixel once the offset of later baselines is taken off; 65,535 is
what Sentinel-2's own products call saturated."""

LEVELLED = "DN without the 1000 that processing baselines from 04.00 on add"
"""What metadata calls Sentinel-2's numbers if all are on one scale: reflectance = DN / 10,000."""
OUTLINE_METRES = 1.25 * PATCH_METRES
"""Side of the square, due north, in which any patch of a place lies: tiles beside their zone are
turned, by up to 12 degrees at 83 degrees of latitude, and the patch moves by up to 30 m to their
pixels."""
METRES_PER_DEGREE = 110_574.0
"""Of latitude, where it has the fewest, at the equator (WGS 84)."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A span of time in which an image is looked for."""

    start: datetime
    """First moment, UTC."""
    end: datetime
    """First moment after it, UTC."""

    def holds(self, time: datetime) -> bool:
        """Return whether a moment lies in it."""
        return self.start <= time < self.end


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image of a product, as its archive tells of it."""

    product: ProductName
    """Which product."""
    id: str
    """Name in its archive, for example `COPERNICUS/S2_HARMONIZED/20200604T054639_…_T43RCP`."""
    name: str
    """Name of the acquisition: the last part of the id, and of the folder in the tree."""
    time: datetime
    """Sensing time, UTC."""
    cloud_percent: float | None
    """Cloud cover of the whole scene, percent; None for Sentinel-1."""
    datatake: str | None
    """`DATATAKE_IDENTIFIER` without its processing baseline, the same for L1C and L2A of one pass;
    None for Sentinel-1."""
    ascending: bool | None
    """Whether the satellite flew north; None where the archive does not say."""
    epsg: int
    """Code of the projection of the pixels, UTM."""
    left: float
    """Easting of the upper left corner of all its bands, metres."""
    top: float
    """Northing of that corner, metres."""
    properties: Mapping[str, Any]
    """All that the archive tells, under its names; becomes metadata.json."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """Where a patch lies: 2,640 by 2,640 metres, on pixels' edges of every grid of its scene."""

    epsg: int
    """Projection."""
    left: float
    """Easting of the upper left corner, metres."""
    top: float
    """Northing of that corner, metres."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """A patch of one scene."""

    bands: tuple[Num[np.ndarray, "_ _"], ...]
    """Each band at its native size, in the product's order and type; `MISSING` where nothing was
    measured."""
    missing: int
    """Pixels of the 10 m grid that are missing in one band of it or more, and of coarser grids
    likewise, added up."""


@runtime_checkable
class ImageService(Protocol):
    """Who is asked for images: Earth Engine, or a STAC catalogue. Calls may come from threads."""

    name: str
    """How metadata calls it."""

    def scenes(
        self, product: Product, *, lon: float, lat: float, windows: Sequence[Window]
    ) -> list[Scene]:
        """Return all scenes of the windows whose footprint holds the whole patch.

        Clouds, orbits and datatakes are not looked at. In order of time, then of name.

        Raises:
            ServiceError: The service refuses, or does not answer for too long.
        """
        ...

    def pixels(self, scene: Scene, box: Box) -> Pixels:
        """Return a patch of a scene.

        Raises:
            ServiceError: The service refuses, or does not answer for too long.
        """
        ...

    def stop(self) -> None:
        """Let calls that are under way end soon, without patience for the service."""
        ...


def box_around(scene: Scene, *, lon: float, lat: float) -> Box:
    """Return the patch of a scene whose centre is nearest to a place.

    Its corner is one that all grids of the product share, counted from the scene's own: every 60 m
    for Sentinel-2, every 10 m for Sentinel-1. So no pixel is resampled, and the centre is within
    half of that of the place in each direction.

    Args:
        scene: The scene.
        lon: Degrees east.
        lat: Degrees north.
    """
    step = max(band.resolution_metres for band in PRODUCTS[scene.product].bands)
    x, y = project(lon, lat, epsg=scene.epsg)
    half = PATCH_METRES / 2
    return Box(
        epsg=scene.epsg,
        left=scene.left + step * round((x - half - scene.left) / step),
        top=scene.top - step * round((scene.top - y - half) / step),
    )


def patch_outline(*, lon: float, lat: float) -> list[list[float]]:
    """Return the ring of a square in which any patch of a place lies, however its scene is turned.

    Args:
        lon: Degrees east.
        lat: Degrees north.

    Returns:
        Five corners, each longitude and latitude in degrees, counter-clockwise.
    """
    north = OUTLINE_METRES / 2 / METRES_PER_DEGREE
    east = north / math.cos(math.radians(lat))
    return [
        [lon + x * east, lat + y * north] for x, y in [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]
    ]
