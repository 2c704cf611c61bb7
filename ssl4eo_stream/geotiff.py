"""GeoTIFF bytes <-> arrays and georeference: bands in and out, shard members out.

Pixels in strips are read by `strips` in a fraction of rasterio's time; whatever that doesn't know
goes to rasterio. Nobody but this module and `georeference` imports it.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import imagecodecs
import numpy as np
import rasterio
import rasterio.errors
from jaxtyping import Num

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.georeference import centre, grid_tags, project
from ssl4eo_stream.strips import (
    Buffer,
    GeoTags,
    Page,
    UnknownLayoutError,
    decode_sample,
    read_pages,
)
from ssl4eo_stream.tiff_header import PageForm, join_pages, write_band

__all__ = [
    "Buffer",
    "Codec",
    "GeoTags",
    "Page",
    "PageContent",
    "centre",
    "decode_sample",
    "grid_tags",
    "project",
    "read_band",
    "read_located",
    "read_pages",
    "read_raster",
    "write",
    "write_band",
]

_PREDICTORS = {"u": 2, "f": 3}
"""Kind of pixels -> TIFF predictor: horizontal differences, or floating point."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How the pixels of a shard member are stored; also the TIFF compression behind it."""

    name: Literal["jpeg", "zstd", "zstd16"]
    """`jpeg`: lossy bytes. `zstd`: lossless bytes. `zstd16`: lossless source values."""
    quality: int | None = None
    """JPEG quality 1-100, for `jpeg` alone."""

    @classmethod
    def parse(cls, text: str) -> "Codec":
        """Read `jpeg:Q`, `zstd` or `zstd16`.

        Raises:
            ValueError: The text has another form, or Q is not 1-100.
        """
        if text == "zstd" or text == "zstd16":
            return cls(name=text)
        name, _, quality = text.partition(":")
        if name == "jpeg" and quality.isascii() and quality.isdigit() and 1 <= int(quality) <= 100:
            return cls(name="jpeg", quality=int(quality))
        raise ValueError(
            f"codec {text!r} is not known: write jpeg:Q with a quality Q of 1 to 100 "
            "(jpeg:90), zstd (lossless bytes) or zstd16 (lossless source values)."
        )

    def __str__(self) -> str:
        return self.name if self.quality is None else f"{self.name}:{self.quality}"

    @property
    def keeps_source_values(self) -> bool:
        """Whether the stored pixels are the source's own (uint16 DN, float32 dB), not bytes."""
        return self.name == "zstd16"


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """One page to write: the bands that share a grid."""

    bands: Sequence[Num[np.ndarray, "h w"]]
    """Pixels, all of one shape and type."""
    geo: GeoTags
    """Georeference tags."""
    description: str
    """Text of ImageDescription, ASCII."""


def read_band(
    data: Buffer, *, name: str, georeference: bool = True
) -> tuple[Num[np.ndarray, "h w"], GeoTags]:
    """Read a single-band GeoTIFF of any layout that GDAL knows.

    Args:
        data: The file.
        name: What to call it in errors.
        georeference: Whether to read where it lies.

    Returns:
        Its pixels, (height, width) in the file's type, and its georeference tags, if asked for.

    Raises:
        SourceError: The file is cut, damaged, not a raster, or has several bands.
    """
    try:
        page, *rest = read_pages(data, name=name, georeference=georeference)
        if page.samples != 1 or rest:
            raise SourceError(
                f"{name} has {page.samples} bands and {1 + len(rest)} pages; a source file "
                "holds one band. Split it into one file per band."
            )
        return decode_sample(data, page, 0, name=name), page.geo
    except UnknownLayoutError:
        return _read_with_rasterio(bytes(data), name=name)


@contextmanager
def _opened(data: bytes, *, name: str) -> Iterator[rasterio.DatasetReader]:
    """Open a raster with GDAL; what goes wrong with it inside names it."""
    try:
        with (
            warnings.catch_warnings(
                action="ignore", category=rasterio.errors.NotGeoreferencedWarning
            ),
            rasterio.MemoryFile(data) as file,
            file.open() as source,
        ):
            yield source
    except rasterio.errors.RasterioError as error:
        raise SourceError(f"{name} can't be read by GDAL: {error}. Download it again.") from error


def _read_with_rasterio(data: bytes, *, name: str) -> tuple[Num[np.ndarray, "h w"], GeoTags]:
    with _opened(data, name=name) as source:
        if source.count != 1:
            raise SourceError(
                f"{name} has {source.count} bands; a source file holds one. "
                "Split it into one file per band."
            )
        pixels = source.read(1)
        # GDAL writes the georeference as tags again: one form, whatever the source's was.
        with rasterio.MemoryFile() as blank:
            with blank.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8",
                            crs=source.crs, transform=source.transform) as target:  # fmt: skip
                target.write(np.zeros((1, 1, 1), np.uint8))
            return pixels, read_pages(blank.read(), name=name)[0].geo


def read_raster(data: bytes, *, name: str) -> Num[np.ndarray, "c h w"]:
    """Read all bands of a raster of any layout that GDAL knows.

    Raises:
        SourceError: GDAL can't read it.
    """
    with _opened(data, name=name) as source:
        return source.read()


def read_located(
    data: bytes, *, name: str
) -> tuple[Num[np.ndarray, "c h w"], int | None, tuple[float, ...]]:
    """Read all bands of a raster, and where they lie.

    Returns:
        Pixels; the EPSG code of the projection, None if there is none; and the six numbers a, b, c,
        d, e, f of x = a * column + b * row + c, y = d * column + e * row + f.

    Raises:
        SourceError: GDAL can't read it.
    """
    with _opened(data, name=name) as source:
        epsg = source.crs.to_epsg() if source.crs else None
        return source.read(), epsg, tuple(source.transform)[:6]


def write(pages: Sequence[PageContent], *, codec: Codec) -> bytes:
    """Write a multi-page GeoTIFF: planar, one strip a band, the same bytes for the same pixels.

    Args:
        pages: What to write, finest grid first; uint8 bands but for `zstd16`.
        codec: How; `zstd16` differences integers (predictor 2) and splits floats (predictor 3).

    Returns:
        The file.
    """
    return join_pages(
        [
            (
                _form(page, codec=codec),
                page.geo,
                [_encode(band, codec=codec) for band in page.bands],
            )
            for page in pages
        ]
    )


def _form(page: PageContent, *, codec: Codec) -> PageForm:
    """Return the form of a page's header."""
    height, width = page.bands[0].shape
    dtype = page.bands[0].dtype
    return PageForm(
        samples=len(page.bands),
        height=height,
        width=width,
        dtype=dtype.name,
        compression="jpeg" if codec.name == "jpeg" else "zstd",
        predictor=None if codec.name == "jpeg" else _PREDICTORS[dtype.kind],
        description=page.description,
        geo=tuple((tag, kind, count) for tag, (kind, count, _) in sorted(page.geo.items())),
    )


def _encode(band: Num[np.ndarray, "h w"], *, codec: Codec) -> bytes:
    """Return a band as the strip that holds it."""
    if codec.name == "jpeg":
        # Huffman tables of each strip's own: 7 % fewer bytes of real patches at quality 75, 3 % at
        # 90, as fast to decode, for twice the time of encoding.
        return bytes(imagecodecs.jpeg8_encode(band, codec.quality, optimize=True))
    predicted = imagecodecs.floatpred_encode if band.dtype.kind == "f" else imagecodecs.delta_encode
    return bytes(imagecodecs.zstd_encode(cast("Any", predicted(band, axis=-1))))
