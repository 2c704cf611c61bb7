"""SSL4EO-S12 v1.1, the successor's shards -> a location's dates as unfinished shards hold them.

A tar holds a `KEY.zarr.zip` per location, KEY being a running number of a split: the location's id,
the same as in v1.0, is inside. All bands come on the 10 m grid, and go back to their native ones.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from jaxtyping import Num, Shaped

from ssl4eo_stream.bands import PATCH_METRES, Product
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.geotiff import GeoTags, grid_tags, project
from ssl4eo_stream.shard.archive import Parcel
from ssl4eo_stream.shard.gather import Gathering
from ssl4eo_stream.shard.locations import encode
from ssl4eo_stream.shard.source import ID, METADATA, SENSED, Patch
from ssl4eo_stream.shard.unfinished import NO_DATE, PATCH, PROBLEM
from ssl4eo_stream.shard.zarr_zip import ZarrZip

SOURCE = "SSL4EO-S12 v1.1"
SUFFIX = ".zarr.zip"
PIXELS = PATCH_METRES // 10
"""Side of every band."""
THIN_CLOUD, THICK_CLOUD = 3, 4
"""Classes of `cloud_mask`."""
UNITS = {
    "nanoseconds": "ns", "microseconds": "us", "milliseconds": "ms", "seconds": "s",
    "minutes": "m", "hours": "h", "days": "D",
}  # fmt: skip
"""What xarray may count time in -> NumPy's name of it."""
CIRRUS_RAISED = 900
"""Median of B10 from which on DN are raised by 1000: without, its mean is 22, clouds have 200."""
SAME_DATE = timedelta(days=2)
"""What `time` and the day in a scene's name may differ by."""
REMEDY = "Copy its tar again, or leave such locations out with --on-missing skip."


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A location, as its tar holds it."""

    where: str
    """Tar and member: what messages call it."""
    id: int
    """Location id, the same as in v1.0."""
    dates: int
    """Number of its dates."""
    data: bytes
    """The zip."""

    @classmethod
    def of(cls, data: bytes, *, where: str) -> "Sample":
        """Read which location a member holds.

        Raises:
            SourceError: It can't be read, or has no id.
        """
        zarr = ZarrZip(data, name=where)
        text = str(zarr.scalar("sample"))
        if not ID.fullmatch(text):
            raise SourceError(
                f"{where}: sample is {text!r}, a location id has 6 or 7 digits. Is it "
                f"{SOURCE} as released in tars of one zip per location?"
            )
        return cls(where=where, id=int(text), dates=zarr.shape("bands")[0], data=data)

    def bands(self, product: Product) -> Num[np.ndarray, "t c y x"]:
        """Return all pixels in the product's order of bands, in the file's type.

        Raises:
            SourceError: They can't be read, or are of another product.
        """
        zarr = ZarrZip(self.data, name=self.where)
        pixels, names = zarr.read("bands"), product.names
        if "band" in zarr:
            names = tuple(re.sub("^B0", "B", str(name).upper()) for name in zarr.read("band").flat)
        kinds = "f" if product.dtype == "float32" else "iu"
        if (
            sorted(names) != sorted(product.names)
            or pixels.shape != (self.dates, len(names), PIXELS, PIXELS)
            or pixels.dtype.kind not in kinds
        ):
            raise SourceError(
                f"{self.where} holds {pixels.dtype} {list(pixels.shape)} of {', '.join(names)}; "
                f"{product.name} has (dates, {len(product.names)}, {PIXELS}, {PIXELS}) of "
                f"{', '.join(product.names)}. Choose another --product, or the tars of this one."
            )
        return pixels[:, [names.index(name) for name in product.names]]


def parcels_of(sample: Sample, gathering: Gathering, *, dn_offset: int) -> list[Parcel]:
    """Return a location's dates, encoded; or a single parcel that tells of a problem.

    Args:
        sample: The location.
        gathering: Which product, and how its pixels are to be stored.
        dn_offset: What Sentinel-2's DN had been raised by.
    """
    try:
        return _dates_of(sample, gathering, dn_offset=dn_offset)
    except SourceError as error:
        problem = f"{error} {REMEDY}"
        files = {METADATA: _metadata(sample), PROBLEM: problem.encode()}
        return [Parcel(id=sample.id, acquisition=NO_DATE, files=files)]


def origin(metadata: bytes) -> str:
    """Return the tar and member that a filed parcel came from."""
    return json.loads(metadata)["member"]


def is_averaged(parcel: Parcel) -> bool:
    """Return whether bands of a date were averaged to their native grids."""
    return json.loads(parcel.files[METADATA]).get("coarse_bands") == "averaged"


def _metadata(sample: Sample, **fields: float | str) -> bytes:
    return json.dumps({"member": sample.where, "source": SOURCE, **fields}).encode()


def _dates_of(sample: Sample, gathering: Gathering, *, dn_offset: int) -> list[Parcel]:
    product = gathering.product
    zarr = ZarrZip(sample.data, name=sample.where)
    pixels = sample.bands(product)
    lon, lat, geo = _place(zarr, product)
    clouds = zarr.read("cloud_mask") if "cloud_mask" in zarr else None
    if clouds is not None and clouds.shape != (sample.dates, PIXELS, PIXELS):
        raise SourceError(f"{sample.where}: cloud_mask is {clouds.shape}, not one of each date.")
    parcels = []
    for date, name in enumerate(_names(zarr, dates=sample.dates)):
        patch, exact = _patch(
            pixels[date], product, geo=geo, dn_offset=dn_offset, name=f"{sample.where}: {name}"
        )
        fields: dict[str, float | str] = {"lon": lon, "lat": lat}
        if len(product.grids) > 1:
            fields["coarse_bands"] = "exact" if exact else "averaged"
        if clouds is not None:
            share = np.isin(clouds[date], (THIN_CLOUD, THICK_CLOUD)).mean()
            fields["patch_cloud_percent"] = round(100 * float(share), 2)
        data = encode(patch, product=product, codec=gathering.codec)
        files = {PATCH: data, METADATA: _metadata(sample, **fields)}
        parcels.append(Parcel(id=sample.id, acquisition=name, files=files))
    return parcels


def _patch(
    pixels: Num[np.ndarray, "c y x"],
    product: Product,
    *,
    geo: tuple[GeoTags, ...],
    dn_offset: int,
    name: str,
) -> tuple[Patch, bool]:
    """Return a date at native grids and in DN without offset, and whether nothing was averaged.

    Negative DN, which v1.0 can't have, become 0.
    """
    if product.dtype == "float32":
        if not np.isfinite(pixels).all():
            raise SourceError(
                f"{name} has {np.count_nonzero(~np.isfinite(pixels))} pixels without a value "
                "(NaN or infinite), which would pass for darkness."
            )
    elif not pixels.any():
        raise SourceError(f"{name} is void: all pixels are 0.")
    if "B10" in product.names:
        cirrus = float(np.median(pixels[product.names.index("B10")]))
        if (cirrus >= CIRRUS_RAISED) != (dn_offset == 1000):
            raise SourceError(
                f"{name} has a median of {cirrus:.0f} DN in its cirrus band B10, so it does not "
                f"fit to --dn-offset {dn_offset} as the locations that its tar begins with do."
            )
    bands, exact = [], True
    for band, values in zip(product.bands, pixels, strict=True):
        coarse, equal = native(values, side=band.pixels)
        if product.dtype != "float32":
            coarse = (coarse.astype(np.int32) - dn_offset).clip(0, 65_535)
        bands.append(coarse.astype(product.dtype))
        exact &= equal
    return Patch(bands=tuple(bands), geo=geo, bytes_read=0), exact


def native(
    pixels: Num[np.ndarray, "y x"], *, side: int
) -> tuple[Num[np.ndarray, "side side"], bool]:
    """Return a band at its native size, and whether that gives all of it.

    Where every block of pixels that make one coarse pixel is of one value, as the nearest neighbour
    leaves it, that value is what there was. Of other resampling the mean of each block is as near
    as one gets.
    """
    factor = len(pixels) // side
    blocks = pixels.reshape(side, factor, side, factor)
    corners = blocks[:, 0, :, 0]
    if (blocks == corners[:, None, :, None]).all():
        return corners, True
    mean = blocks.mean(axis=(1, 3))
    return (np.rint(mean) if pixels.dtype.kind in "iu" else mean).astype(pixels.dtype), False


def _place(zarr: ZarrZip, product: Product) -> tuple[float, float, tuple[GeoTags, ...]]:
    """Return longitude, latitude, and each grid's georeference.

    The pixels lie where `x` and `y` say, or, without such in metres, around the centre.
    """
    lon, lat, epsg = (zarr.scalar(name) for name in ("center_lon", "center_lat", "crs"))
    if not (isinstance(lon, float) and isinstance(lat, float) and isinstance(epsg, int)) or not (
        abs(lon) <= 180 and abs(lat) <= 90 and 1024 <= epsg < 32_767
    ):
        raise SourceError(f"{zarr.name} lies at {lon}° E, {lat}° N, EPSG:{epsg}: no place.")
    edges = _edges(zarr)
    if edges is None:
        try:
            x, y = project(lon, lat, epsg=epsg)
        except SourceError as error:
            raise SourceError(f"{zarr.name}: {error}") from error
        edges = x - PATCH_METRES / 2, y + PATCH_METRES / 2
    left, top = edges
    geo = tuple(
        grid_tags(epsg=epsg, left=left, top=top, pixel_metres=grid.resolution_metres)
        for grid in product.grids
    )
    return lon, lat, geo


def _edges(zarr: ZarrZip) -> tuple[float, float] | None:
    """Return left and upper edge by the middles of the pixels, if `x` and `y` are metres."""
    if "x" not in zarr or "y" not in zarr:
        return None
    x, y = zarr.read("x"), zarr.read("y")
    if any(axis.shape != (PIXELS,) or axis.dtype.kind not in "iuf" for axis in (x, y)):
        return None
    steps = np.arange(PIXELS) * 10.0
    if max(np.abs(x - x[0] - steps).max(), np.abs(y[0] - y - steps).max()) > 1:
        return None
    return float(x[0]) - 5, float(y[0]) + 5


def _names(zarr: ZarrZip, *, dates: int) -> Sequence[str]:
    """Return what each date's acquisition is called: its scene, or its time where that is unknown.

    Raises:
        SourceError: A date has neither, or both and they differ, or two have the same.
    """
    scenes = (
        [str(text) for text in zarr.read("file_id").flat] if "file_id" in zarr else [""] * dates
    )
    times = _times(zarr)
    if not len(scenes) == len(times) == dates:
        raise SourceError(
            f"{zarr.name} has {dates} dates, {len(times)} times and {len(scenes)} scenes."
        )
    names = []
    for date, (scene, time) in enumerate(zip(scenes, times, strict=True)):
        sensed = SENSED.search(scene) if re.fullmatch(r"\w[\w.-]*", scene) else None
        if sensed is None and time is None:
            raise SourceError(
                f"{zarr.name}: date {date} has no time, and its scene {scene!r} names none."
            )
        if sensed and time:
            named = datetime.strptime(sensed[1], "%Y%m%d").replace(tzinfo=UTC)
            if abs(time - named) > SAME_DATE:
                raise SourceError(
                    f"{zarr.name}: date {date} has the time {time:%Y-%m-%dT%H:%M:%S}, and the "
                    f"scene {scene}."
                )
        names.append(scene if sensed or time is None else f"{time:%Y%m%dT%H%M%S}")
    if len(set(names)) < dates:
        raise SourceError(f"{zarr.name} holds a date twice: {', '.join(names)}.")
    return names


def _times(zarr: ZarrZip) -> list[datetime | None]:
    """Return each date's time, None where it is void: 0, negative or not a time."""
    times: Shaped[np.ndarray, " t"] = zarr.read("time")
    if times.dtype.kind != "M":
        units = str(zarr.attributes("time").get("units", "nanoseconds since 1970-01-01"))
        unit, _, start = units.partition(" since ")
        try:
            times = np.datetime64(start.replace(" ", "T")) + times.astype(f"m8[{UNITS[unit]}]")
        except (KeyError, ValueError) as error:
            raise SourceError(
                f"{zarr.name}: time is counted in {units!r}, which is not known."
            ) from error
    seconds = times.astype("datetime64[s]").astype(np.int64).flat
    return [datetime.fromtimestamp(int(n), UTC) if n > 0 else None for n in seconds]
