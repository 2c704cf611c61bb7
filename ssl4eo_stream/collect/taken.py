"""What was taken at a place, and the files that it becomes: the released layout, band by band."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ssl4eo_stream.bands import PRODUCTS, ProductName
from ssl4eo_stream.collect.scene import MISSING, Box, Pixels, Scene
from ssl4eo_stream.errors import ServiceError
from ssl4eo_stream.geotiff import grid_tags, write_band
from ssl4eo_stream.sample import location_key

METADATA = "metadata.json"

STORED = {"s1": np.float32(-9999.0), "s2a": np.uint16(0), "s2c": np.uint16(0)}
"""What files have for a pixel that was not measured: darkness, which 0 is for Sentinel-2, as in the
release, but not for dB. Shards of bytes have 0 for it in all products."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A location of a plan."""

    id: int
    """Its number, 0 to 9,999,999."""
    lon: float
    """Degrees east of its centre."""
    lat: float
    """Degrees north of its centre."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A patch and the scene that it was cut from."""

    scene: Scene
    """The scene."""
    box: Box
    """Where in it."""
    pixels: Pixels
    """The patch."""


@runtime_checkable
class Sink(Protocol):
    """Where patches go. Calls come from threads, of one location from one at a time."""

    def write(
        self, place: Place, taken: Mapping[ProductName, Sequence[Taken]], *, source: str
    ) -> None:
        """Keep all of a location, over what may be there of it.

        Args:
            place: The location.
            taken: Its patches of each product.
            source: What metadata calls the service.

        Raises:
            ServiceError: Two dates of a product have the same name.
            StorageError: It can't be written.
        """
        ...

    def discard(self, place: Place) -> None:
        """Remove what may be there of a location that is not to be had.

        Raises:
            StorageError: It can't be removed.
        """
        ...


def files_of(taken: Taken, *, place: Place, source: str) -> dict[str, bytes]:
    """Return the files of a patch by name: one GeoTIFF per band, and what is known of it.

    Args:
        taken: The patch.
        place: The location that it is of.
        source: What metadata calls the service.
    """
    box, product = taken.box, taken.scene.product
    files = {
        f"{band.name}.tif": write_band(
            np.where(pixels == MISSING[product], STORED[product], pixels),
            geo=grid_tags(
                epsg=box.epsg, left=box.left, top=box.top, pixel_metres=band.resolution_metres
            ),
        )
        for band, pixels in zip(PRODUCTS[product].bands, taken.pixels.bands, strict=True)
    }
    fields: dict[str, Any] = {
        **taken.scene.properties,
        "source": source,
        "lon": place.lon,
        "lat": place.lat,
    }
    if taken.pixels.missing:
        fields["missing_pixels"] = taken.pixels.missing
    # In one order, whatever the answer's was: the same images are the same bytes.
    return files | {METADATA: json.dumps(fields, sort_keys=True).encode()}


def check_names(taken: Mapping[ProductName, Sequence[Taken]], *, place: Place) -> None:
    """Make sure that no date of a product would lie in the folder of another.

    Raises:
        ServiceError: Two have the same name.
    """
    for product, dates in taken.items():
        names = [each.scene.name for each in dates]
        if len(set(names)) < len(names):
            raise ServiceError(
                f"location {location_key(place.id)}: two dates of {product} have the same name "
                f"among {', '.join(names)}; the service says that one image has two times."
            )
