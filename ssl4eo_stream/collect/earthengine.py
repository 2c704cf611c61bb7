"""Images from Google Earth Engine, by its own client. The only importer of `ee`.

Two requests make a patch's band group: which images there are is one `value:compute` for each
product and place, and pixels are one `image:computePixels` for each native grid, on the scene's own
pixels, so nothing is resampled. Every request of the client goes through one transport, which has
the time limits, counts, and repeats what may pass; the client's own repeats are off.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ee
import ee.data
import numpy as np
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.oauth2 import service_account

from ssl4eo_stream.bands import PRODUCTS, Product, ProductName
from ssl4eo_stream.collect.areas import covers
from ssl4eo_stream.collect.scene import (
    LEVELLED,
    MISSING,
    Box,
    Pixels,
    Scene,
    Window,
    patch_outline,
)
from ssl4eo_stream.collect.transport import Transport
from ssl4eo_stream.errors import ServiceError, StorageError
from ssl4eo_stream.geotiff import read_located
from ssl4eo_stream.retry import RetryPolicy

URL = "https://earthengine-highvolume.googleapis.com"
"""The endpoint for many small requests (Earth Engine guides, "High-volume endpoint")."""
SCOPES = ("https://www.googleapis.com/auth/earthengine",
          "https://www.googleapis.com/auth/cloud-platform")  # fmt: skip
"""What a service account asks leave for."""
HARMONIZED: dict[ProductName, str] = {
    "s1": "COPERNICUS/S1_GRD", "s2a": "COPERNICUS/S2_SR_HARMONIZED",
    "s2c": "COPERNICUS/S2_HARMONIZED",
}  # fmt: skip
AS_DELIVERED: dict[ProductName, str] = {
    "s1": "COPERNICUS/S1_GRD", "s2a": "COPERNICUS/S2_SR", "s2c": "COPERNICUS/S2",
}  # fmt: skip
"""Collections in which DN of baselines from 04.00 on (2022-01-25) are raised by 1000."""
PATIENCE = RetryPolicy(
    stall_seconds=120.0, first_wait_seconds=1.0, longest_wait_seconds=60.0, give_up_seconds=600.0
)
"""Earth Engine computes for up to minutes before the first byte, and a quota fills again slowly."""
SIGN_IN = (
    "Sign in with `earthengine authenticate`, or give --service-account KEY.json; and give "
    "--project the name of a Cloud project that is registered for Earth Engine, in which you are "
    "Service Usage Consumer and Earth Engine Resource Viewer."
)
"""What to do where the door stays shut."""


class EarthEngine:
    """Earth Engine as an image service; calls may come from any number of threads.

    The client's state is the process's own, so there is one of these in a process.

    Args:
        project: Cloud project that pays; None takes the service account's, or the one that
            `earthengine set_project` left.
        service_account_key: Key file of a service account; None takes the user's credentials.
        credentials: Credentials to use instead of both.
        url: Root of the API.
        harmonized: Whether DN of all baselines are to be on one scale.
        policy: How long a request is tried.

    Raises:
        ServiceError: Nobody is signed in, or Earth Engine refuses or does not answer.
    """

    name = "earthengine"

    def __init__(
        self,
        *,
        project: str | None = None,
        service_account_key: Path | None = None,
        credentials: Credentials | None = None,
        url: str = URL,
        harmonized: bool = True,
        policy: RetryPolicy = PATIENCE,
    ) -> None:
        self._transport = Transport(policy)
        self.counters = self._transport.counters
        self._collections = HARMONIZED if harmonized else AS_DELIVERED
        offset = LEVELLED if harmonized else "DN raised by 1000 from processing baseline 04.00 on"
        self._marks = {
            "s1": {"backscatter": "sigma nought, dB"},
            "s2a": {"offset_convention": offset},
            "s2c": {"offset_convention": offset},
        }
        try:
            if service_account_key is not None:
                credentials = service_account.Credentials.from_service_account_file(
                    str(service_account_key), scopes=SCOPES
                )
            ee.Initialize(
                credentials="persistent" if credentials is None else credentials,
                url=url,
                project=project,
                http_transport=self._transport,
            )
            ee.data.setMaxRetries(0)
        except (ee.EEException, GoogleAuthError, StorageError, OSError, ValueError) as error:
            raise ServiceError(f"Earth Engine ({url}) can't be used: {error} {SIGN_IN}") from error

    def scenes(
        self, product: Product, *, lon: float, lat: float, windows: Sequence[Window]
    ) -> list[Scene]:
        """Return all scenes of the windows whose footprint holds the whole patch.

        In order of time, then of name.

        Raises:
            ServiceError: Earth Engine refuses, does not answer for too long, or has something else
                than a product's images have to be.
        """
        name = self._collections[product.name]
        spans = [ee.Filter.date(_milliseconds(w.start), _milliseconds(w.end)) for w in windows]
        found = ee.ImageCollection(name).filterBounds(ee.Geometry.Point([lon, lat]))
        found = found.filter(ee.Filter.Or(*spans))
        if product.name == "s1":
            found = found.filter(ee.Filter.eq("instrumentMode", "IW"))
            for polarization in product.names:
                found = found.filter(
                    ee.Filter.listContains("transmitterReceiverPolarisation", polarization)
                )
        what = f"images of {product.name} at {lon:.5f}, {lat:.5f}"
        answer = self._call(lambda: ee.data.computeValue(found.select(list(product.names))), what)
        patch = patch_outline(lon=lon, lat=lat)
        try:
            scenes = [
                _scene(feature, product, collection=name, marks=self._marks[product.name])
                for feature in answer.get("features", [])  # left out if there are none
                if covers(_polygon(feature), patch)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ServiceError(
                f"{what}: Earth Engine tells of an image without what it has to have: {error!r}. "
                "Try a newer earthengine-api."
            ) from error
        return sorted(scenes, key=lambda scene: (scene.time, scene.name))

    def pixels(self, scene: Scene, box: Box) -> Pixels:
        """Return a patch of a scene.

        Raises:
            ServiceError: Earth Engine refuses, does not answer for too long, or answers with
                something else than was asked for.
        """
        product, void = PRODUCTS[scene.product], MISSING[scene.product]
        bands: dict[int, np.ndarray] = {}
        missing = 0
        for grid in product.grids:
            names = [product.names[c] for c in grid.channels]
            image = ee.Image(scene.id).select(names).unmask(void.item(), False)
            image = image.toFloat() if product.dtype == "float32" else image.toUint16()
            metres = grid.resolution_metres
            request = {
                "expression": image,
                "fileFormat": "GEO_TIFF",
                "grid": {
                    "dimensions": {"width": grid.pixels, "height": grid.pixels},
                    "affineTransform": {
                        "scaleX": metres, "shearX": 0, "translateX": box.left,
                        "shearY": 0, "scaleY": -metres, "translateY": box.top,
                    },
                    "crsCode": f"EPSG:{box.epsg}",
                },
            }  # fmt: skip
            what = f"{scene.id}, its {metres} m bands"
            data = self._call(lambda request=request: ee.data.computePixels(request), what)
            values, *where = read_located(data, name=what)
            wanted = (len(names), grid.pixels, grid.pixels), product.dtype
            if (values.shape, values.dtype) != wanted or where != [
                box.epsg, (metres, 0.0, box.left, 0.0, -metres, box.top)
            ]:  # fmt: skip
                raise ServiceError(
                    f"{what}: asked for {wanted} at {box}, Earth Engine answered with "
                    f"{values.shape} of {values.dtype} at EPSG:{where[0]}, {where[1]}."
                )
            missing += int(np.any(values == void, axis=0).sum())
            bands |= dict(zip(grid.channels, values, strict=True))
        return Pixels(bands=tuple(bands[c] for c in range(len(product.bands))), missing=missing)

    def stop(self) -> None:
        """Let calls that are under way end soon, without patience for the service."""
        self._transport.stop()

    def _call(self, call: Any, what: str) -> Any:  # noqa: ANN401 - what Earth Engine answers
        """Ask Earth Engine; what goes wrong names what was asked for."""
        try:
            return call()
        except (ee.EEException, GoogleAuthError, StorageError, OSError) as error:
            raise ServiceError(f"{what}: {error}") from error


def _milliseconds(time: datetime) -> int:
    """Return a moment as Earth Engine counts it."""
    return round(time.timestamp() * 1000)


def _polygon(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Return an image's footprint, which it tells as a ring, as a polygon."""
    ring = feature["properties"]["system:footprint"]
    coordinates = ring["coordinates"]
    return {"type": "Polygon", "coordinates": [coordinates]} if ring["type"] == "LinearRing" else (
        dict(ring)
    )  # fmt: skip


def _scene(
    feature: Mapping[str, Any], product: Product, *, collection: str, marks: Mapping[str, str]
) -> Scene:
    """Return an image, as Earth Engine tells of it, as a scene."""
    said = dict(feature["properties"])
    name = f"{collection}/{said['system:index']}"
    grids = {band["id"]: (band["crs"], tuple(band["crs_transform"])) for band in feature["bands"]}
    corners = set()
    for band in product.bands:
        crs, (a, b, left, d, e, top) = grids.get(band.name, ("", (0,) * 6))
        if (a, b, d, e) != (band.resolution_metres, 0, 0, -band.resolution_metres):
            raise ServiceError(
                f"{name}: band {band.name} has the grid {grids.get(band.name)}; it has to be of "
                f"{band.resolution_metres} m, north up."
            )
        corners.add((crs, float(left), float(top)))
    if len(corners) != 1 or not (crs := next(iter(corners))[0]).startswith("EPSG:"):
        raise ServiceError(f"{name}: its bands begin in different places: {sorted(corners)}.")
    cloud, orbit = (
        said.get("CLOUDY_PIXEL_PERCENTAGE"),
        (said.get("orbitProperties_pass") or said.get("SENSING_ORBIT_DIRECTION")),
    )
    datatake = said.get("DATATAKE_IDENTIFIER")
    return Scene(
        product=product.name,
        id=name,
        name=said["system:index"],
        time=datetime.fromtimestamp(said["system:time_start"] / 1000, UTC),
        cloud_percent=float(cloud) if isinstance(cloud, int | float) else None,
        datatake=datatake.rpartition("_N")[0] or datatake if datatake else None,
        ascending=None if orbit is None else orbit == "ASCENDING",
        epsg=int(crs.removeprefix("EPSG:")),
        left=next(iter(corners))[1],
        top=next(iter(corners))[2],
        properties=said | {"system:id": name} | dict(marks),
    )
