"""EuroSAT (Helber et al. 2019, arXiv:1709.00029): 27,000 Sentinel-2 L1C patches of ten classes.

N images of C bands.
"""

import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from jaxtyping import Int64, UInt8
from tqdm import tqdm

from ssl4eo_stream import geotiff
from ssl4eo_stream.bands import Band
from ssl4eo_stream.errors import SourceError

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B8A")
"""Order in the GeoTIFFs: B8A is last, as the classes' mean spectra show (torchgeo says so too)."""
BGR = ("B2", "B3", "B4")
"""Channels of the JPEGs as OpenCV returns them."""
RGB_DN = 2750
"""Digital number that the JPEGs show as 255 (their authors' rendering)."""
PIXELS = 64
"""Side of an image."""


@dataclass(frozen=True, kw_only=True)
class EuroSAT:
    """Images in the bytes of shards, and what they show; sorted by class and number."""

    images: UInt8[np.ndarray, "n c 64 64"]
    """Bands as asked for, quantized as the shards' are."""
    classes: Int64[np.ndarray, " n"]
    """Positions in `names`."""
    names: tuple[str, ...]
    """The classes' names, sorted."""

    @property
    def asked(self) -> np.ndarray:
        """Whether an image asks (N,): every other one of a class does, the others answer."""
        places = np.concatenate([np.arange(n) for n in np.bincount(self.classes)])
        return places % 2 == 1


def read(path: Path, *, bands: Sequence[Band], quiet: bool = False) -> EuroSAT:
    """Read EuroSAT from where it was put.

    Args:
        path: A folder, .tar, .tar.gz or .zip with `…/CLASS/CLASS_N.tif` (13 bands) or
            `…/CLASS/CLASS_N.jpg` (RGB).
        bands: What to read, and on which scale.
        quiet: Show no progress.

    Raises:
        ValueError: There are no such files, or they lack a band.
        SourceError: A file is damaged.
    """
    found: dict[tuple[str, int], UInt8[np.ndarray, "c 64 64"]] = {}
    for name, data in tqdm(_files(path), desc=f"reading {path.name}", unit="img", disable=quiet):
        pure = PurePosixPath(name)
        number = int(pure.stem.rpartition("_")[2])
        values, order = _decoded(data, name=f"{path}: {name}")
        missing = [band.name for band in bands if band.name not in order]
        if missing:
            raise ValueError(
                f"{path}: {name} has no {', '.join(missing)}; it has {', '.join(order)}. Train on "
                "some of these (--select.bands), or give EuroSAT's GeoTIFFs of 13 bands."
            )
        found[pure.parent.name, number] = np.stack([
            np.rint((values[order.index(band.name)] - band.offset) / band.scale).clip(0, 255)
            for band in bands
        ]).astype(np.uint8)  # fmt: skip
    if not found:
        raise ValueError(f"{path} holds no …/CLASS/CLASS_N.tif or .jpg: is it EuroSAT?")
    keys = sorted(found)
    names = tuple(sorted({kind for kind, _ in keys}))
    return EuroSAT(
        images=np.stack([found[key] for key in keys]),
        classes=np.array([names.index(kind) for kind, _ in keys]),
        names=names,
    )


def _decoded(data: bytes, *, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return an image's digital numbers (C, 64, 64) as floats, and the names of its bands."""
    if name.endswith(".tif"):
        values, order = geotiff.read_raster(data, name=name)[0], BANDS
    else:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise SourceError(f"{name} can't be read as JPEG. Download it again.")
        values, order = pixels.transpose(2, 0, 1), BGR
    if values.shape != (len(order), PIXELS, PIXELS):
        raise SourceError(
            f"{name} is of shape {values.shape}, EuroSAT's are {(len(order), PIXELS, PIXELS)}."
        )
    scale = RGB_DN / 255 if order is BGR else 1.0
    return values.astype(np.float64) * scale, order


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the images' names and bytes."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if _is_image(file.name):
                yield file.as_posix(), file.read_bytes()
    elif not path.is_file():
        raise ValueError(f"{path} is not there: give EuroSAT's folder, tar or zip.")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if _is_image(name):
                    yield name, archive.read(name)
    else:
        try:
            with tarfile.open(path) as archive:
                for entry in archive:
                    file = archive.extractfile(entry) if _is_image(entry.name) else None
                    if file:
                        yield entry.name, file.read()
        except tarfile.ReadError as error:
            raise ValueError(f"{path} is no folder, tar or zip of EuroSAT: {error}.") from error


def _is_image(name: str) -> bool:
    pure = PurePosixPath(name)
    return pure.suffix in {".tif", ".jpg"} and pure.stem.rpartition("_")[2].isdecimal()
