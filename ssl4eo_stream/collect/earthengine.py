"""Google Earth Engine as a service of images, by its own client. The only importer of `ee`.

A search is one computeValue, the patch of a scene one computePixels for each native grid. What is
relied on: a collection's answer lists its images with `bands` and all `properties`, `select` keeps
both for the bands named, `.geo` is an image's footprint, `system:index` its name in the collection.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import ee
import ee.data
import numpy as np
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from googleapiclient.errors import Error as ClientError
from jaxtyping import Num

from ssl4eo_stream.bands import PRODUCTS, Grid, Product
from ssl4eo_stream.collect.answers import EPOCH, pixels_of, scene_of, square_around
from ssl4eo_stream.collect.scene import MISSING, Box, Pixels, Scene, Window
from ssl4eo_stream.collect.transport import Transport
from ssl4eo_stream.errors import ServiceError, StorageError
from ssl4eo_stream.retry import Counters, Progress, Retrier, RetryPolicy

T = TypeVar("T")

POLARISATIONS = "transmitterReceiverPolarisation"
HIGH_VOLUME = "https://earthengine-highvolume.googleapis.com"
"""Google's address for many small requests by programs; it keeps fewer results for later."""
HARMONIZED = {
    "s1": "COPERNICUS/S1_GRD",
    "s2a": "COPERNICUS/S2_SR_HARMONIZED",
    "s2c": "COPERNICUS/S2_HARMONIZED",
}
"""Collections in which the numbers of Sentinel-2 mean the same at any date."""
AS_PROCESSED = HARMONIZED | {"s2a": "COPERNICUS/S2_SR", "s2c": "COPERNICUS/S2"}
"""Collections with the numbers as ESA's processor wrote them."""
WITHOUT_OFFSET = "reflectance = DN / 10000"
WITH_OFFSET = (
    "reflectance = DN / 10000 before 2022-01-25, (DN - 1000) / 10000 from then on "
    "(processing baseline 04.00)"
)
PATIENCE = RetryPolicy(
    stall_seconds=120.0, first_wait_seconds=1.0, longest_wait_seconds=60.0, give_up_seconds=900.0
)
"""An answer's first byte comes when all is computed; quotas are counted by the minute."""
SIGN_IN = (
    "Run `earthengine authenticate` once, or give the key of a service account; name a Cloud "
    "project that is registered for Earth Engine "
    "(https://console.cloud.google.com/earth-engine), in which the account has the roles "
    "roles/earthengine.viewer and roles/serviceusage.serviceUsageConsumer."
)


class EarthEngine:
    """An `ImageService`. The client is one for the whole process: the last one made is asked.

    Args:
        project: Cloud project that requests are charged to; the one that belongs to the credentials
            if None.
        service_account: JSON key of a service account to sign in with, instead of what
            `earthengine authenticate` left.
        url: Address; None for Google's for many small requests.
        harmonized: Whether numbers of Sentinel-2 come without the offset that processing has added
            since baseline 04.00 (2022-01-25), so that reflectance is DN / 10,000 at any date.
        credentials: Google's credentials, if neither of the above.
        retry: How long to wait for answers.

    Raises:
        ServiceError: Nobody is signed in, or the service refuses them.
    """

    name = "Google Earth Engine"

    def __init__(
        self,
        *,
        project: str | None = None,
        service_account: Path | None = None,
        url: str | None = None,
        harmonized: bool = True,
        credentials: Credentials | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        policy = retry or PATIENCE
        self._retrier = Retrier(policy=policy, counters=Counters())
        self._collections = HARMONIZED if harmonized else AS_PROCESSED
        self.offset_convention = WITHOUT_OFFSET if harmonized else WITH_OFFSET
        transport = Transport(policy=policy, counters=self.counters)

        who = _key(service_account) if service_account is not None else credentials or "persistent"

        def sign_in() -> None:
            ee.data.setMaxRetries(0)  # its own can't be seen, nor bounded in time
            ee.Initialize(who, url=url or HIGH_VOLUME, project=project, http_transport=transport)

        self._call(sign_in, what="access", advice=f" {SIGN_IN}")

    @property
    def counters(self) -> Counters:
        """What was asked of it: every request, those that were made again, and bytes."""
        return self._retrier.counters

    def stop(self) -> None:
        """Let calls of other threads end at their next failure, instead of trying again."""
        self._retrier.stop()

    def scenes(
        self, product: Product, *, lon: float, lat: float, windows: Sequence[Window]
    ) -> list[Scene]:
        """Return all scenes of the windows whose footprint holds the whole patch, by time and name.

        Of Sentinel-1 those of the mode IW with VV and VH. The square that has to be held is a tenth
        wider than the patch (`FOOTPRINT_METRES`), so that it holds the patch on any scene's grid.

        Args:
            product: Which.
            lon: Degrees east of the patch's centre.
            lat: Degrees north.
            windows: When.

        Raises:
            ServiceError: The service refuses, or does not answer for too long, or tells of a scene
                whose grid is not the product's.
        """
        square = ee.Geometry.Rectangle(list(square_around(lon, lat)), None, False)
        filters = [
            ee.Filter.bounds(square),  # answered from an index, unlike `contains`
            ee.Filter.Or(*[ee.Filter.date(_ms(each.start), _ms(each.end)) for each in windows]),
            ee.Filter.contains(leftField=".geo", rightValue=square),
        ]
        if product.name == "s1":
            filters += [
                ee.Filter.eq("instrumentMode", "IW"),
                *(ee.Filter.listContains(POLARISATIONS, band) for band in product.names),
            ]
        collection = self._collections[product.name]
        images = ee.ImageCollection(collection).filter(ee.Filter.And(*filters))
        answer = self._call(
            lambda: ee.data.computeValue(images.select(list(product.names))),
            what=f"the scenes of {collection} at lon {lon:.5f}, lat {lat:.5f}",
        )
        found = [
            scene_of(each, product=product, collection=collection)
            for each in answer.get("features", [])  # an empty list may be left out
        ]
        return sorted(found, key=lambda scene: (scene.time, scene.name))

    def pixels(self, scene: Scene, box: Box) -> Pixels:
        """Return a patch of a scene, each band on its own grid: nothing is resampled.

        Args:
            scene: The scene.
            box: Where, on pixels' edges of the scene.

        Raises:
            ServiceError: The service refuses, does not answer for too long, or gives another size,
                type or place than was asked for.
        """
        product = PRODUCTS[scene.product]
        bands: dict[int, Num[np.ndarray, "_ _"]] = {}
        missing = 0
        for grid in product.grids:
            cut = self._cut(scene, box, grid)
            missing += int((cut == MISSING[scene.product]).any(axis=0).sum())
            bands.update(zip(grid.channels, cut, strict=True))
        return Pixels(bands=tuple(bands[c] for c in range(len(bands))), missing=missing)

    def _cut(self, scene: Scene, box: Box, grid: Grid) -> Num[np.ndarray, "c h w"]:
        """Return the bands of one grid."""
        product, step = PRODUCTS[scene.product], grid.resolution_metres
        names = [product.names[channel] for channel in grid.channels]
        image = ee.Image(scene.id).select(names).unmask(MISSING[scene.product].item(), False)
        request = {
            "expression": image.toUint16() if product.dtype == "uint16" else image.toFloat(),
            "fileFormat": "GEO_TIFF",
            "grid": {
                "dimensions": {"width": grid.pixels, "height": grid.pixels},
                "affineTransform": {
                    "scaleX": step, "shearX": 0, "translateX": box.left,
                    "shearY": 0, "scaleY": -step, "translateY": box.top,
                },
                "crsCode": f"EPSG:{box.epsg}",
            },
        }  # fmt: skip
        what = f"pixels of {scene.id} at {step} m, upper left ({box.left}, {box.top})"
        data = self._call(lambda: ee.data.computePixels(request), what=what)
        return pixels_of(data, grid=grid, scene=scene, box=box)

    def _call(self, ask: Callable[[], T], *, what: str, advice: str = "") -> T:
        """Return what one call of the client returns, however many attempts it takes.

        Raises:
            ServiceError: The service refuses, or failed for too long.
        """
        progress = Progress(what=what, policy=self._retrier.policy, verb="get")
        answers: list[T] = []

        def attempt() -> None:
            progress.begin()
            answers.append(ask())

        try:
            self._retrier.run(attempt, progress=progress)
        except GoogleAuthError as error:
            raise ServiceError(f"Google refuses the credentials: {error}. {SIGN_IN}") from error
        except (ee.EEException, ClientError) as error:
            raise ServiceError(f"Earth Engine refuses {what}: {error}{advice}") from error
        except StorageError as error:
            raise ServiceError(str(error)) from error
        return answers[0]


def _key(path: Path) -> Credentials:
    """Return the credentials of a service account.

    Raises:
        ServiceError: It is not the key of one.
    """
    try:
        return ee.ServiceAccountCredentials(key_file=str(path))
    except (OSError, ValueError) as error:
        raise ServiceError(
            f"{path} is no key of a service account: {error}. Make one in the Cloud console, under "
            "IAM, service accounts, keys, as JSON."
        ) from error


def _ms(time: datetime) -> int:
    """Return a moment as Earth Engine counts it."""
    return (time - EPOCH) // timedelta(milliseconds=1)
