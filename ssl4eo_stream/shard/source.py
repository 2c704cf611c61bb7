"""Trees of GeoTIFFs -> locations and patches.

A tree is `{s1,s2a,s2c}/{6 or 7 digit id}/{acquisition}/{BAND}.tif` with `metadata.json` beside the
bands, or one product's folder of it. The parent process lists ids alone, one `scandir` of one
folder; everything below is read per location, where the work is done.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num

from ssl4eo_stream.bands import PRODUCTS, Product, ProductName
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.geotiff import Buffer, GeoTags, centre, read_band
from ssl4eo_stream.sample import Acquisition, Location, location_key

ID = re.compile(r"\d{6,7}")
SENSED = re.compile(r"(?:^|_)(\d{8})(?:T(\d{6}))?(?=_|$)")
"""First date in an acquisition's name; Sentinel-1 names begin with the platform instead."""
METADATA = "metadata.json"
KEPT_PROPERTIES = (
    "source", "synthetic", "MGRS_TILE", "SPACECRAFT_NAME", "PROCESSING_BASELINE",
    "SENSING_ORBIT_NUMBER", "SENSING_ORBIT_DIRECTION", "MEAN_SOLAR_ZENITH_ANGLE",
    "MEAN_SOLAR_AZIMUTH_ANGLE", "platform_number", "orbitProperties_pass",
    "relativeOrbitNumber_start", "patch_cloud_percent", "coarse_bands", "offset_convention",
    "backscatter", "missing_pixels",
)  # fmt: skip
"""What the shards keep of an acquisition's metadata; Earth Engine's names, and ours."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """The pixels of one product of one place on one date."""

    bands: tuple[Num[np.ndarray, "_ _"], ...]
    """Each band at its native size, in the product's order and type."""
    geo: tuple[GeoTags, ...]
    """Georeference of the first band of each grid, finest first."""
    bytes_read: int
    """Size of the source files."""


def product_folder(source: Path, *, product: ProductName) -> Path:
    """Return the folder that holds the product's ids: `source/s2c`, or `source` itself.

    Raises:
        SourceError: There is no such folder, or it can't be read.
    """
    try:
        if not source.exists():
            raise SourceError(f"{source} does not exist. Give the folder that holds {product}/.")
        if not source.is_dir():
            raise SourceError(f"{source} is a file. Unpack it, and give the folder that it makes.")
        if (source / product).is_dir():
            return source / product
    except OSError as error:
        raise SourceError(f"{source} can't be read: {error}. Check its permissions.") from error
    others = [name for name in PRODUCTS if (source / name).is_dir()]
    if others:
        raise SourceError(
            f"{source} holds {', '.join(others)} but no {product}. "
            f"Choose --product from these, or download {product}."
        )
    return source


def list_ids(folder: Path) -> dict[int, str]:
    """Return the locations of a product's folder: id -> folder name.

    Raises:
        SourceError: The folder can't be read, or two of its folders spell the same id.
    """
    ids: dict[int, str] = {}
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if ID.fullmatch(entry.name) and entry.is_dir()]
    except OSError as error:
        raise SourceError(f"{folder} can't be listed: {error}. Check its permissions.") from error
    for name in names:
        if (other := ids.setdefault(int(name), name)) != name:
            raise SourceError(
                f"{folder} holds location {int(name)} twice, as {other} and {name}. Remove one."
            )
    return ids


def sibling_ids(folder: Path) -> dict[str, set[int]]:
    """Return the ids of the other products in the same tree, by product."""
    if folder.name not in PRODUCTS:
        return {}
    return {
        name: set(list_ids(folder.parent / name))
        for name in PRODUCTS
        if name != folder.name and (folder.parent / name).is_dir()
    }


def shard_plan(ids: Iterable[int], *, samples_per_shard: int) -> dict[int, tuple[int, ...]]:
    """Return the ids of every shard, by shard number: id // samples per shard, both in order."""
    plan: dict[int, list[int]] = {}
    for number in sorted(ids):
        plan.setdefault(number // samples_per_shard, []).append(number)
    return {shard: tuple(members) for shard, members in plan.items()}


def read_location(folder: Path, *, product: Product) -> Location:
    """Read what a location's folder says, without its pixels.

    The position is the metadata's `lon` and `lat` where there are such, or the middle of the first
    10 m band by its georeference.

    Raises:
        SourceError: There is no acquisition, or its metadata, date or position can't be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise SourceError(f"{folder} can't be listed: {error}. Check its permissions.") from error
    if not names:
        raise SourceError(
            f"{folder} holds no acquisition folder, so no date at all. "
            "Download the location again, or leave it out with --on-missing skip."
        )
    metadata = {name: _metadata(folder / name / METADATA) for name in names}
    acquisitions = [
        acquisition_of(
            metadata[name],
            folder=str(folder / name),
            bands=tuple(folder / name / f"{band}.tif" for band in product.names),
        )
        for name in names
    ]

    def position(first: Acquisition) -> tuple[float, float]:
        path = first.bands[product.grids[0].channels[0]]
        pixels, geo = read_band(_file_bytes(path), name=str(path))
        try:
            return centre(geo, pixels.shape[1], pixels.shape[0])
        except SourceError as error:
            raise SourceError(f"{path} has {error}.") from error

    return location_of(int(folder.name), acquisitions, metadata=metadata, position=position)


def location_of(
    number: int,
    acquisitions: Iterable[Acquisition],
    *,
    metadata: Mapping[str, Mapping[str, Any]],
    position: Callable[[Acquisition], tuple[float, float]],
) -> Location:
    """Put the dates of a location in order, and find out where it lies.

    Args:
        number: Location id.
        acquisitions: Its dates.
        metadata: Name of each -> its properties; the first date's `lon` and `lat` are believed.
        position: Asked for longitude and latitude by the first date where there are none.
    """
    ordered = sorted(acquisitions, key=lambda acquisition: (acquisition.time, acquisition.name))
    first = ordered[0]
    lon, lat = metadata[first.name].get("lon"), metadata[first.name].get("lat")
    if not isinstance(lon, int | float) or not isinstance(lat, int | float):
        lon, lat = position(first)
    return Location(id=number, lon=float(lon), lat=float(lat), acquisitions=tuple(ordered))


def _metadata(path: Path) -> dict[str, Any]:
    """Properties of an acquisition, or none where there is no such file."""
    try:
        return properties_of(path.read_bytes(), name=str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error}. Check its permissions.") from error


def properties_of(data: bytes, *, name: str) -> dict[str, Any]:
    """Return an acquisition's properties from its JSON: flat (the release) or nested (later).

    Raises:
        SourceError: It is no JSON object.
    """
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict):
            raise ValueError(f"a {type(fields).__name__} where an object belongs")
    except ValueError as error:
        raise SourceError(
            f"{name} is not readable JSON: {error}. Download it again, or remove it: "
            "pixels and dates do without."
        ) from error
    nested = fields.get("properties")
    return {**fields, **nested} if isinstance(nested, dict) else fields


def acquisition_of(
    fields: Mapping[str, Any], *, folder: str, bands: tuple[Path, ...] = ()
) -> Acquisition:
    """Return what an acquisition's folder name and properties say of it.

    Raises:
        SourceError: Neither has a date.
    """
    cloud = fields.get("CLOUDY_PIXEL_PERCENTAGE")
    name = Path(folder).name
    return Acquisition(
        name=name,
        time=_sensing_time(name, fields, folder=folder),
        cloud_percent=float(cloud) if isinstance(cloud, int | float) else None,
        properties={
            name: fields[name]
            for name in KEPT_PROPERTIES
            if isinstance(fields.get(name), str | int | float | bool)
        },
        bands=bands,
    )


def _sensing_time(name: str, fields: Mapping[str, Any], *, folder: str) -> datetime:
    """Time from the folder's name, or from `system:time_start` (ms since 1970) or `date`."""
    try:
        if found := SENSED.search(name):
            text = found[1] + (found[2] or "000000")
            return datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        if "system:time_start" in fields:
            return datetime.fromtimestamp(int(fields["system:time_start"]) // 1000, UTC)
        return datetime.fromisoformat(fields["date"]).replace(tzinfo=UTC)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise SourceError(
            f"{folder} has no date: neither in its name (20201104T135121_…, 20201104) nor as "
            f"system:time_start or date in its {METADATA}. Rename the folder."
        ) from error


def read_patch(acquisition: Acquisition, *, product: Product) -> Patch:
    """Read all bands of an acquisition.

    Raises:
        SourceError: A band is missing, unreadable, of the wrong size or type, or not finite.
    """
    files = [(str(path), _file_bytes(path)) for path in acquisition.bands]
    return patch_of(files, product=product)


def patch_of(files: Sequence[tuple[str, Buffer]], *, product: Product) -> Patch:
    """Read all bands of an acquisition from what its files hold.

    Args:
        files: Of each band, in the product's order: what messages call it, and its content.
        product: Which product.

    Raises:
        SourceError: A band is unreadable, of the wrong size or type, or not finite.
    """
    pixels, tags = [], {}
    firsts = [grid.channels[0] for grid in product.grids]
    for c, (band, (path, data)) in enumerate(zip(product.bands, files, strict=True)):
        array, tags[c] = read_band(data, name=path, georeference=c in firsts)
        if array.shape != (band.pixels, band.pixels) or array.dtype != product.dtype:
            raise SourceError(
                f"{path} has {array.shape[1]} × {array.shape[0]} pixels of {array.dtype}; band "
                f"{band.name} of {product.name} has {band.pixels} × {band.pixels} of "
                f"{product.dtype}. Download the acquisition again, or choose another --product."
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SourceError(
                f"{path} has {np.count_nonzero(~np.isfinite(array))} pixels without a value (NaN "
                "or infinite), which would pass for darkness. Download the acquisition again."
            )
        pixels.append(array)
    geo, bytes_read = tuple(tags[c] for c in firsts), sum(len(data) for _, data in files)
    return Patch(bands=tuple(pixels), geo=geo, bytes_read=bytes_read)


def _file_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SourceError(
            f"{path} is missing. Download the acquisition again, or leave its location out with "
            "--on-missing skip."
        ) from error
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error}. Check its permissions.") from error


def examples(ids: Iterable[int]) -> str:
    """Return a few ids to name in a message: `0000012, 0000099, …`."""
    few = sorted(ids)
    return ", ".join(map(location_key, few[:5])) + (", …" if len(few) > 5 else "")
