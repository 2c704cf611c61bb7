"""Small GeoTIFF trees in the published layout, for tests of everything that reads one."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import tifffile

from ssl4eo_stream.bands import PRODUCTS

NAMES = {
    "s2c": ("20200604T054639_20200604T054831_T43RCP", "20200823T054639_20200823T055618_T43RCP",
            "20201201T054639_20201201T055618_T43RCP", "20210301T054639_20210301T055618_T43RCP"),
    "s1": ("S1B_IW_GRDH_1SDV_20200329T001515_20200329T001540_031883_03AE27_9BAF",
           "S1A_IW_GRDH_1SDV_20200607T010800_20200607T010825_032904_03CFBA_D457",
           "S1B_IW_GRDH_1SDV_20200903T131212_20200903T131237_034195_03F8F5_AC1C",
           "S1A_IW_GRDH_1SDV_20201201T010800_20201201T010825_032904_03CFBA_D457"),
}  # fmt: skip
"""Acquisitions in order of time; the S1 names sort otherwise."""
NAMES["s2a"] = NAMES["s2c"]
GEOGRAPHIC_KEYS = (1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326)


def geo_tags(lon, lat, pixels, *, keys=GEOGRAPHIC_KEYS, step=None):
    """Tags of a grid of `pixels`² around a centre, north up."""
    step = step or 0.0238 / pixels
    corner = (0.0, 0.0, 0.0, lon - step * pixels / 2, lat + step * pixels / 2, 0.0)
    return [
        (33550, "d", 3, (step, step, 0.0), True),
        (33922, "d", 6, corner, True),
        (34735, "H", len(keys), keys, True),
    ]


def write_band(path, pixels, *, lon=0.0, lat=0.0, **options):
    """Write a single-band GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        pixels,
        photometric="minisblack",
        metadata=None,
        extratags=geo_tags(lon, lat, pixels.shape[-1]),
        **options,
    )


def pixels_of(band, product, rng):
    """Smooth, noisy pixels of a band's size and type, with values beyond the byte's range."""
    size = band.pixels
    ramp = np.linspace(0, 1, size)[:, None] * np.linspace(1, 0.2, size)
    noise = rng.normal(0, 0.02, (size, size))
    if product.dtype == "float32":
        return (band.mean + 3 * band.std * (2 * ramp - 1) + noise).astype(np.float32)
    return ((ramp + np.abs(noise)) * 12_000).astype(np.uint16)


def write_location(folder, product, *, dates, seed=0, metadata="none"):
    """Write one location's folder; returns its pixels, [date][channel]."""
    rng = np.random.default_rng(seed)
    written = []
    for name in NAMES[product.name][:dates]:
        arrays = [pixels_of(band, product, rng) for band in product.bands]
        for band, pixels in zip(product.bands, arrays, strict=True):
            write_band(folder / name / f"{band.name}.tif", pixels, lon=10.0, lat=50.0)
        properties = {"CLOUDY_PIXEL_PERCENTAGE": 3.5, "orbitProperties_pass": "ASCENDING"}
        if metadata != "none":
            fields = properties if metadata == "flat" else {"id": "x", "properties": properties}
            (folder / name / "metadata.json").write_text(json.dumps(fields))
        written.append(arrays)
    return written


def write_tree(root: Path, product_name, ids, *, dates=2, metadata="flat"):
    """Write a tree of one product; returns its pixels by id."""
    product = PRODUCTS[product_name]
    return {
        i: write_location(
            root / product_name / f"{i:07d}", product, dates=dates, seed=i, metadata=metadata
        )
        for i in ids
    }


def members_of(tar):
    """Name -> bytes of a tar's regular members, in its order."""
    with tarfile.open(tar) as file:
        return {info.name: file.extractfile(info).read() for info in file if info.isreg()}


def write_tar(path, members, *, form=tarfile.USTAR_FORMAT, folders=()):
    """Write members (name -> bytes, or pairs in order) as another tool might; returns the path."""
    with tarfile.open(path, "w", format=form) as file:
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            file.addfile(info)
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname = len(data), 1_700_000_000.5, "sömebody"
            if form != tarfile.PAX_FORMAT:
                info.mtime = int(info.mtime)
            file.addfile(info, io.BytesIO(data))
    return path
