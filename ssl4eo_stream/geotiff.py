"""GeoTIFF bytes <-> arrays and georeference: bands in and out, shard members out.

The only importer of tifffile and rasterio. Pixels in strips are read by `strips` in a fraction of
their time; whatever that doesn't know goes to rasterio.
"""

import io
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import imagecodecs
import numpy as np
import rasterio
import rasterio.errors
import tifffile
from jaxtyping import Num
from rasterio.warp import transform

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.strips import (
    Buffer,
    GeoTags,
    Page,
    UnknownLayoutError,
    decode_sample,
    read_pages,
)

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
    "read_pages",
    "read_raster",
    "write",
    "write_band",
]

PIXEL_SCALE, TIE_POINT, TRANSFORMATION, GEO_KEYS = 33550, 33922, 34264, 34735
MODEL_TYPE, RASTER_TYPE, PROJECTED_CRS, USER_DEFINED = 1024, 1025, 3072, 32767
"""Geo keys (GeoTIFF 1.1): geographic or projected; where in the pixel ties hold; EPSG code."""


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


def read_band(data: Buffer, *, name: str) -> tuple[Num[np.ndarray, "h w"], GeoTags]:
    """Read a single-band GeoTIFF of any layout that GDAL knows.

    Returns:
        Its pixels, (height, width) in the file's type, and its georeference tags.

    Raises:
        SourceError: The file is cut, damaged, not a raster, or has several bands.
    """
    try:
        page, *rest = read_pages(data, name=name)
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


def read_raster(
    data: bytes, *, name: str
) -> tuple[Num[np.ndarray, "c h w"], int | None, tuple[float, ...]]:
    """Read all bands of a raster of any layout that GDAL knows.

    Returns:
        Its pixels; the EPSG code of its projection, if any; and (a, b, c, d, e, f) of
        x = a column + b row + c, y = d column + e row + f, from the first pixel's outer corner.

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
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink, byteorder="<") as writer:
        for page in pages:
            height, width = page.bands[0].shape
            dtype = page.bands[0].dtype
            if codec.name == "jpeg":
                # Huffman tables of each strip's own: 7 % fewer bytes of real patches at quality 75,
                # 3 % at 90, as fast to decode, for twice the time of encoding.
                strips = [
                    imagecodecs.jpeg8_encode(band, codec.quality, optimize=True)
                    for band in page.bands
                ]
                pixels: Any = iter(strips)  # tifffile takes what is encoded already
                how: dict[str, Any] = {"compression": "jpeg"}
            else:
                pixels = np.stack(page.bands)
                how = {"compression": "zstd", "predictor": 3 if dtype.kind == "f" else 2}
            writer.write(
                pixels,
                **how,
                shape=(len(page.bands), height, width),
                dtype=dtype,
                photometric="minisblack",
                planarconfig="separate",
                rowsperstrip=height,
                metadata=None,
                software=False,
                description=page.description,
                extratags=[(tag, *value, True) for tag, value in sorted(page.geo.items())],
                maxworkers=1,
            )
    return sink.getvalue()


def write_band(
    pixels: Num[np.ndarray, "h w"], *, geo: GeoTags, rows_per_strip: int | None = None
) -> bytes:
    """Write a single-band GeoTIFF as the published trees have them, without compression.

    Args:
        pixels: The band.
        geo: Georeference tags.
        rows_per_strip: Height of the strips; one strip if None.

    Returns:
        The file, the same bytes for the same pixels.
    """
    sink = io.BytesIO()
    tifffile.imwrite(
        sink, pixels, byteorder="<", photometric="minisblack", metadata=None, software=False,
        rowsperstrip=len(pixels) if rows_per_strip is None else rows_per_strip,
        extratags=[(tag, *value, True) for tag, value in sorted(geo.items())],
    )  # fmt: skip
    return sink.getvalue()


def grid_tags(*, epsg: int, left: float, top: float, pixel_metres: int) -> GeoTags:
    """Return the tags of a grid in a projection, north up.

    Args:
        epsg: Code of the projection, its axes in metres.
        left: Easting of the left edge of the first column.
        top: Northing of the upper edge of the first row.
        pixel_metres: Side of a pixel.
    """
    keys = (1, 1, 0, 3, MODEL_TYPE, 0, 1, 1, RASTER_TYPE, 0, 1, 1, PROJECTED_CRS, 0, 1, epsg)
    return {
        PIXEL_SCALE: (12, 3, struct.pack("<3d", pixel_metres, pixel_metres, 0)),
        TIE_POINT: (12, 6, struct.pack("<6d", 0, 0, 0, left, top, 0)),
        GEO_KEYS: (3, len(keys), struct.pack(f"<{len(keys)}H", *keys)),
    }


def project(lon: float, lat: float, *, epsg: int) -> tuple[float, float]:
    """Return a position (degrees, WGS 84) in another projection: x and y in its unit.

    Raises:
        SourceError: There is no such projection, or the position is not in it.
    """
    try:
        (x,), (y,) = transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat])[:2]
    except (rasterio.errors.RasterioError, rasterio.errors.CRSError) as error:
        raise SourceError(f"EPSG:{epsg} is no projection for {lon}, {lat}: {error}") from error
    return x, y


def centre(geo: GeoTags, width: int, height: int) -> tuple[float, float]:
    """Return longitude and latitude (degrees, WGS 84) of the middle of a raster.

    Raises:
        SourceError: The tags hold no position, or a projection without an EPSG code.
    """
    values = {
        tag: struct.unpack(f"<{count}{'H' if kind == 3 else 'd'}", raw)
        for tag, (kind, count, raw) in geo.items()
        if kind in (3, 12)
    }
    numbers = values.get(GEO_KEYS, ())
    keys = {numbers[i]: numbers[i + 3] for i in range(4, len(numbers) - 3, 4)}
    shift = 0.5 if keys.get(RASTER_TYPE) == 2 else 0.0
    column, row = width / 2 - shift, height / 2 - shift
    if PIXEL_SCALE in values and TIE_POINT in values:
        (dx, dy, *_), (i, j, _, x, y, *_) = values[PIXEL_SCALE], values[TIE_POINT]
        x, y = x + (column - i) * dx, y - (row - j) * dy
    elif TRANSFORMATION in values:
        m = values[TRANSFORMATION]
        x, y = m[0] * column + m[1] * row + m[3], m[4] * column + m[5] * row + m[7]
    else:
        raise SourceError("no georeference; write lon and lat into metadata.json")
    if keys.get(MODEL_TYPE) != 1:
        return x, y
    if keys.get(PROJECTED_CRS, USER_DEFINED) == USER_DEFINED:
        raise SourceError("a projection without EPSG code; write lon and lat into metadata.json")
    (lon,), (lat,) = transform(f"EPSG:{keys[PROJECTED_CRS]}", "EPSG:4326", [x], [y])[:2]
    return lon, lat
