"""Small tars in the layout of SSL4EO-S12 v1.1, written by zarr itself, for tests of who reads them.

The layout as found in a released tar: members `ssl4eos12_train_seasonal_data_0000001.zarr.zip`,
numbered through; in each a Zarr 2 group, consolidated, zipped without compression, whose `sample`
is the location's id in v1.0.
"""

import json
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
import zarr
from numcodecs import Blosc
from trees import NAMES, geo_tags, pixels_of, write_tar

from ssl4eo_stream.bands import PRODUCTS

EPSG, LEFT, TOP, LON, LAT = 32643, 706_000.0, 3_014_000.0, 77.09344, 27.2213
UTM_KEYS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, EPSG)
DAYS = {
    "s2c": ("2020-06-04", "2020-08-23", "2020-12-01", "2021-03-01"),
    "s2a": ("2020-06-04", "2020-08-23", "2020-12-01", "2021-03-01"),
    "s1": ("2020-03-29", "2020-06-07", "2020-09-03", "2020-12-01"),
}
TIMES = {
    product: np.array([f"{day}T05:46:39" for day in days], "M8[ns]").astype(np.int64)
    for product, days in DAYS.items()
}
"""Nanoseconds since 1970 of the acquisitions of `trees.NAMES`."""


def zipped(variables, *, chunks=None, attributes=None):
    """Zip a Zarr 2 group of arrays (name -> values), as xarray writes one."""
    with tempfile.TemporaryDirectory() as folder:
        group = zarr.create_group(folder, zarr_format=2)
        for name, given in variables.items():
            values = np.asarray(given)
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype,
                chunks=(chunks or {}).get(name, values.shape), compressors=Blosc(),
                fill_value=None, attributes=(attributes or {}).get(name, {}),
            )  # fmt: skip
            array[...] = values
        zarr.consolidate_metadata(folder, zarr_format=2)
        return zip_folder(folder)


def zip_folder(folder):
    """Zip a folder's files, in order, without compression."""
    sink = BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                file.writestr(
                    zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes()
                )
    return sink.getvalue()


def upsampled(pixels):
    """Repeat pixels until a band has the 10 m grid's size: the nearest neighbour."""
    factor = 264 // len(pixels)
    return pixels.repeat(factor, 0).repeat(factor, 1)


def location_zip(
    product_name, number, dates, *, offset=0, split=True, resample=upsampled, order=None, **other
):
    """Zip a location.

    Args:
        product_name: Which product.
        number: Its id.
        dates: Its pixels, [date][channel] at native size.
        offset: Added to the DN.
        split: Whether each date is a chunk.
        resample: Native pixels -> (264, 264).
        order: Dates in the order in which they are to lie; that of time if None.
        **other: Variables in other form, or None to leave one out.
    """
    product = PRODUCTS[product_name]
    order = list(range(len(dates))) if order is None else order
    bands = np.stack([[resample(band) for band in dates[t]] for t in order])
    kind = np.float16 if product.dtype == "float32" else np.int16
    names = [f"B0{n[1:]}" if n[1:].isdigit() and len(n) == 2 else n for n in product.names]
    middles = np.arange(264) * 10.0 + 5
    variables = {
        "band": np.array([n if product_name != "s1" else n.lower() for n in names]),
        "bands": (bands + offset).astype(kind),
        "center_lat": np.float64(LAT),
        "center_lon": np.float64(LON),
        "crs": np.int64(EPSG),
        "file_id": np.array(NAMES[product_name])[order],
        "sample": np.array(f"{number:07d}"),
        "spatial_ref": np.int64(0),
        "time": TIMES[product_name][order],
        "x": LEFT + middles,
        "y": TOP - middles,
    }
    if product_name != "s1":
        clouds = np.zeros((len(order), 264, 264), np.uint8)
        clouds[:, :66], clouds[:, 66:132], clouds[:, 132:198] = 4, 3, 1
        variables["cloud_mask"] = clouds
    variables = {k: v for k, v in (variables | other).items() if v is not None}
    dimensions = {"bands": ["time", "band", "y", "x"], "cloud_mask": ["time", "y", "x"],
                  "file_id": ["time"], "time": ["time"], "band": ["band"], "x": ["x"],
                  "y": ["y"]}  # fmt: skip
    attributes = {name: {"_ARRAY_DIMENSIONS": dimensions.get(name, [])} for name in variables}
    if "time" in attributes:
        attributes["time"] |= {"units": "nanoseconds since 1970-01-01 00:00:00",
                               "calendar": "proleptic_gregorian"}  # fmt: skip
    chunks = {"bands": (1, *bands.shape[1:])} if split else {}
    return zipped(variables, chunks=chunks, attributes=attributes)


def pixels_by_id(product_name, ids, *, dates=2):
    """Make pixels of locations, [date][channel] at native size, of values that float16 can hold."""
    product = PRODUCTS[product_name]
    made = {}
    for i in ids:
        rng = np.random.default_rng(i)
        made[i] = [
            [pixels_of(b, product, rng) // (50 if b.name == "B10" else 1) for b in product.bands]
            for _ in range(dates)
        ]
        if product.dtype == "float32":
            made[i] = [[b.astype(np.float16).astype(np.float32) for b in d] for d in made[i]]
    return made


def write_tars(folder, product_name, pixels, *, per_tar=4, first=1, **options):
    """Write tars of locations in the order given; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    members = [
        (f"ssl4eos12_train_seasonal_data_{n:07d}.zarr.zip",
         location_zip(product_name, i, dates, **options))
        for n, (i, dates) in enumerate(pixels.items(), start=first)
    ]  # fmt: skip
    return [
        write_tar(folder / f"ssl4eos12_shard_{1 + k // per_tar:06d}.tar", members[k : k + per_tar])
        for k in range(0, len(members), per_tar)
    ]


def write_utm_tree(folder, product_name, pixels):
    """Write a GeoTIFF tree that says and shows the same as the tars."""
    product = PRODUCTS[product_name]
    for i, dates in pixels.items():
        for name, arrays in zip(NAMES[product_name], dates, strict=False):
            place = folder / product_name / f"{i:07d}" / name
            place.mkdir(parents=True)
            for band, array in zip(product.bands, arrays, strict=True):
                tags = geo_tags(LEFT + 1320, TOP - 1320, band.pixels, keys=UTM_KEYS,
                                step=float(band.resolution_metres))  # fmt: skip
                tifffile.imwrite(place / f"{band.name}.tif", array, photometric="minisblack",
                                 metadata=None, extratags=tags)  # fmt: skip
            fields = {"lon": LON, "lat": LAT, "source": "SSL4EO-S12 v1.1"}
            if product_name != "s1":
                fields |= {"coarse_bands": "exact", "patch_cloud_percent": 50.0}
            (place / "metadata.json").write_text(json.dumps(fields))
    return folder
