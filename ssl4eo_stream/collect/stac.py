"""Images from a STAC catalogue, for people without Earth Engine: Sentinel-2 L2A, and Sentinel-1.

Not the same data, and metadata.json says so (`source`, `offset_convention`, `backscatter`).
Sentinel-2 L2A is the same product. Sentinel-1 is there as gamma nought, terrain-corrected by
somebody (collection sentinel-1-rtc), where Earth Engine has sigma nought: a few dB apart on slopes.
There is no L1C on map grids.

Collections and the names of their assets are those of Microsoft's Planetary Computer, bands also
by the common names of the STAC extension `eo`, as Element 84's Earth Search has them. The only
importer of pystac_client and odc.stac.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, cast

import numpy as np
import odc.stac
import pystac_client
from affine import Affine
from jaxtyping import Num
from odc.geo.geobox import GeoBox
from pystac import Asset, Item
from pystac_client.exceptions import APIError
from pystac_client.stac_api_io import StacApiIO
from urllib3 import Retry

from ssl4eo_stream.bands import PRODUCTS, Band, Product, ProductName
from ssl4eo_stream.collect.areas import covers
from ssl4eo_stream.collect.scene import LEVELLED, MISSING, Box, Pixels, Scene, Window, patch_outline
from ssl4eo_stream.errors import ServiceError

CATALOGUE = "https://planetarycomputer.microsoft.com/api/stac/v1"
"""Where is looked if nobody says otherwise."""
COLLECTIONS: dict[ProductName, str] = {"s2a": "sentinel-2-l2a", "s1": "sentinel-1-rtc"}
"""Product -> collection."""
COMMON_NAMES = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge1", "B6": "rededge2",
    "B7": "rededge3", "B8": "nir", "B8A": "nir08", "B9": "nir09", "B11": "swir16", "B12": "swir22",
}  # fmt: skip
"""Band -> name of its asset in Earth Search."""
RAISED, RAISED_SINCE = 1000, 4.0
"""Processing baselines from 04.00 on add this to DN (Sentinel-2 products specification, 2022)."""
ATTEMPTS = 6
RETRIED = (408, 429, 500, 502, 503, 504)
RIO = {
    "GDAL_HTTP_MAX_RETRY": str(ATTEMPTS), "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_RETRY_CODES": ",".join(map(str, RETRIED)), "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_CONNECTTIMEOUT": "20", "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
}  # fmt: skip
"""How GDAL reads over the network: bounded waits, and repeats that wait longer and longer."""
logger = logging.getLogger(__name__)


class StacCatalogue:
    """A STAC API as an image service.

    Args:
        url: Its landing page.
        timeout_seconds: Longest wait for an answer.
        backoff_seconds: Wait before the second attempt of a search; it doubles from then on.

    Raises:
        ServiceError: It does not answer, or is no STAC API.
    """

    def __init__(
        self, url: str = CATALOGUE, *, timeout_seconds: float = 60.0, backoff_seconds: float = 1.0
    ) -> None:
        self.name = f"stac {url}"
        self._url = url
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self.requests = 0
        retry = Retry(
            total=ATTEMPTS - 1, backoff_factor=backoff_seconds, backoff_jitter=backoff_seconds,
            status_forcelist=RETRIED, allowed_methods=None,
        )  # fmt: skip
        signer = _signer(url)
        odc.stac.configure_rio(cloud_defaults=True, **cast("Any", RIO))
        try:
            self._client = pystac_client.Client.open(
                url,
                modifier=signer,
                stac_io=StacApiIO(timeout=timeout_seconds, max_retries=retry),
            )
        except Exception as error:
            raise ServiceError(
                f"{url} can't be opened as a STAC API: {error}. Check the address and the network."
            ) from error

    def scenes(
        self, product: Product, *, lon: float, lat: float, windows: Sequence[Window]
    ) -> list[Scene]:
        """Return all scenes of the windows whose footprint holds the whole patch.

        In order of time, then of name.

        Raises:
            ServiceError: The service refuses, does not answer, has no such product, or one that
                is not on a map grid.
        """
        collection = COLLECTIONS.get(product.name)
        if collection is None:
            raise ServiceError(
                f"{self._url} has no {product.title} on map grids. Leave {product.name} out of "
                "--products, or collect from Earth Engine."
            )
        patch = patch_outline(lon=lon, lat=lat)
        found: dict[str, Scene] = {}
        for window in windows:
            self._ask()
            try:
                items = self._client.search(
                    collections=[collection],
                    intersects={"type": "Polygon", "coordinates": [patch]},
                    datetime=(window.start, window.end),
                ).items()
                scenes = [
                    self._scene(item, product)
                    for item in items
                    if covers(item.geometry or {}, patch)
                ]
            except (APIError, OSError) as error:
                raise ServiceError(
                    f"{self._url}: images of {product.name} at {lon:.5f}, {lat:.5f} can't be "
                    f"looked for: {error}. Run the same command again later."
                ) from error
            found |= {scene.id: scene for scene in scenes if window.holds(scene.time)}
        return sorted(found.values(), key=lambda scene: (scene.time, scene.name))

    def stop(self) -> None:
        """Let calls that are under way end at their next request."""
        self._stopped.set()

    def _ask(self, requests: int = 1) -> None:
        """Count requests that are about to be made, unless the work was called off."""
        if self._stopped.is_set():
            raise ServiceError(f"{self._url} is not asked any more: the run is stopped.")
        with self._lock:
            self.requests += requests

    def _scene(self, item: Item, product: Product) -> Scene:
        """Return an item as a scene."""
        said = item.properties
        corners = {_corner(item, product, band) for band in product.bands}
        if len(corners) != 1:
            raise ServiceError(f"{item.id}: its bands begin in different places: {corners}.")
        ((epsg, left, top),) = corners
        assert item.datetime is not None, "the catalogue was asked for a time"
        cloud = said.get("eo:cloud_cover")
        state = said.get("sat:orbit_state")
        return Scene(
            product=product.name,
            id=f"{item.collection_id}/{item.id}",
            name=item.id,
            time=item.datetime.replace(tzinfo=item.datetime.tzinfo or UTC).astimezone(UTC),
            cloud_percent=float(cloud) if isinstance(cloud, int | float) else None,
            datatake=_without_baseline(said.get("s2:datatake_id")),
            ascending=None if state is None else state == "ascending",
            epsg=epsg,
            left=left,
            top=top,
            properties=_properties(item),
        )

    def pixels(self, scene: Scene, box: Box) -> Pixels:
        """Return a patch of a scene: L2A as DN without the offset of later baselines, S1 in dB.

        Raises:
            ServiceError: The scene is gone, or can't be read.
        """
        product = PRODUCTS[scene.product]
        collection, name = scene.id.split("/", 1)
        try:
            self._ask()
            item = next(self._client.search(collections=[collection], ids=[name]).items(), None)
            if item is None:
                raise ServiceError(f"{self._url} has no {scene.id} any more.")
            bands: dict[int, Num[np.ndarray, "n n"]] = {}
            for grid in product.grids:
                names = [_asset_name(item, product.bands[c]) for c in grid.channels]
                metres = grid.resolution_metres
                place = Affine(metres, 0, box.left, 0, -metres, box.top)
                self._ask(len(names))
                loaded = odc.stac.load(
                    [item], bands=names, resampling="nearest", fail_on_error=True,
                    dtype=product.dtype, nodata=np.nan if product.dtype == "float32" else 0,
                    geobox=GeoBox((grid.pixels, grid.pixels), place, f"EPSG:{box.epsg}"),
                )  # fmt: skip
                for c, asset in zip(grid.channels, names, strict=True):
                    bands[c] = loaded[asset].isel(time=0).to_numpy()
        except (APIError, OSError, RuntimeError, ValueError) as error:
            raise ServiceError(f"{self._url}: {scene.id} can't be read: {error}.") from error
        convert = _decibels if scene.product == "s1" else _digital_numbers(scene)
        made = tuple(convert(bands[c]) for c in range(len(product.bands)))
        void = MISSING[scene.product]
        missing = sum(
            int(np.any([made[c] == void for c in grid.channels], axis=0).sum())
            for grid in product.grids
        )
        return Pixels(bands=made, missing=missing)


def _signer(url: str) -> Callable[[Any], Any] | None:
    """Return what lets the Planetary Computer's files be read: a token that anybody gets."""
    if "planetarycomputer" not in url:
        return None
    return import_module("planetary_computer").sign_inplace  # no other catalogue needs it


def _asset_name(item: Item, band: Band) -> str:
    """Return under which name an item has a band."""
    number = f"B{band.name[1:].zfill(2)}" if band.name != "B8A" else "B8A"
    for name in (number, band.name, band.name.lower(), COMMON_NAMES.get(band.name, "")):
        if name in item.assets:
            return name
    raise ServiceError(f"{item.id} has no {band.name}, only {', '.join(item.assets)}.")


def _corner(item: Item, product: Product, band: Band) -> tuple[int, float, float]:
    """Return projection and upper left corner of a band, whose grid must be the native one."""
    asset: Asset = item.assets[_asset_name(item, band)]
    said = {**item.properties, **asset.extra_fields}
    code = str(said.get("proj:code") or f"EPSG:{said.get('proj:epsg')}").removeprefix("EPSG:")
    transform = said.get("proj:transform")
    if not code.isdecimal() or not isinstance(transform, list) or len(transform) < 6:
        raise ServiceError(
            f"{item.id}: band {band.name} is not on a map grid (no proj:transform), so it is no "
            f"use as {product.name}."
        )
    a, b, left, d, e, top = transform[:6]
    if (a, b, d, e) != (band.resolution_metres, 0, 0, -band.resolution_metres):
        raise ServiceError(
            f"{item.id}: the grid of {band.name} is {transform[:6]}, not one of "
            f"{band.resolution_metres} m, north up."
        )
    return int(code), float(left), float(top)


def _without_baseline(datatake: str | None) -> str | None:
    """Return `GS2B_20200604T054639_016948_N02.09` without its last part."""
    return datatake.rpartition("_N")[0] or datatake if datatake else None


def _properties(item: Item) -> dict[str, Any]:
    """Return what an item says, and the same under the names that Earth Engine has, where known."""
    said = dict(item.properties)
    names = {
        "MGRS_TILE": "s2:mgrs_tile",
        "CLOUDY_PIXEL_PERCENTAGE": "eo:cloud_cover",
        "DATATAKE_IDENTIFIER": "s2:datatake_id",
        "PROCESSING_BASELINE": "s2:processing_baseline",
        "relativeOrbitNumber_start": "sat:relative_orbit",
    }
    said |= {ours: said[theirs] for ours, theirs in names.items() if theirs in said}
    is_radar = "sar:instrument_mode" in said
    if state := said.get("sat:orbit_state"):
        said["orbitProperties_pass" if is_radar else "SENSING_ORBIT_DIRECTION"] = state.upper()
    if isinstance(item.datetime, datetime):
        said["system:time_start"] = int(item.datetime.timestamp() * 1000)
    said |= {"backscatter": "gamma nought, dB"} if is_radar else {"offset_convention": LEVELLED}
    return said | {"system:index": item.id, "system:footprint": item.geometry}


def _digital_numbers(scene: Scene) -> Callable[[np.ndarray], np.ndarray]:
    """Return what turns the catalogue's numbers into DN without offset; 0 means no data."""
    baseline = str(scene.properties.get("s2:processing_baseline") or 0)
    taken_off = scene.properties.get("earthsearch:boa_offset_applied") is True
    offset = RAISED if float(baseline) >= RAISED_SINCE and not taken_off else 0

    def convert(values: np.ndarray) -> np.ndarray:
        shifted = (values.astype(np.int32) - offset).clip(0, None)
        return np.where(values == 0, MISSING[scene.product], shifted).astype(np.uint16)

    return convert


def _decibels(power: np.ndarray) -> np.ndarray:
    """Turn backscattered power into dB; none of it, or no value, is missing."""
    known = np.isfinite(power) & (power > 0)
    return np.where(
        known, 10 * np.log10(power, where=known, out=np.zeros_like(power)), MISSING["s1"]
    ).astype(np.float32)
