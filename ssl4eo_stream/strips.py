"""TIFF strips -> arrays: the reader that both ends share, published files and our own members.

A header by `struct`, then strips by codec. A member of three pages costs about 60 µs before its
first pixel, where tifffile and rasterio take milliseconds. What it does not know (tiles, BigTIFF,
pixel-interleaved bands, shared JPEG tables) it says so of; `geotiff.read_band` then asks rasterio.
Numbers of tags, types and codecs are those of TIFF 6.0, its supplements and GeoTIFF 1.1.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg
from jaxtyping import Num

from ssl4eo_stream.errors import SourceError

Buffer = bytes | memoryview
GeoTags = dict[int, tuple[int, int, bytes]]
"""GeoTIFF tags of a page: number -> (TIFF type, count, little-endian values)."""

GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737)
"""ModelPixelScale, ModelTiepoint, ModelTransformation, and keys with their doubles and text."""
MAX_PAGES, MAX_PIXELS = 1000, 1 << 28
"""More of either is a damaged header; believing it would exhaust the memory."""

NONE, LZW, JPEG, DEFLATE, OLD_DEFLATE, ZSTD = 1, 5, 7, 8, 32946, 50000
_INFLATE: dict[int, Callable[..., bytes | bytearray]] = {
    LZW: imagecodecs.lzw_decode,
    DEFLATE: imagecodecs.deflate_decode,
    OLD_DEFLATE: imagecodecs.deflate_decode,
    ZSTD: imagecodecs.zstd_decode,
}
decode_jpeg = partial(simplejpeg.decode_jpeg, colorspace="GRAY")
"""JPEG strip -> its pixels, (height, width, 1) uint8; ValueError if it is cut or damaged."""
_COMPRESSIONS = frozenset((NONE, JPEG, *_INFLATE))
_TYPES = {1: ("B", 1), 2: ("s", 1), 3: ("H", 2), 4: ("I", 4), 12: ("d", 8)}
_ENTRIES = {"<": struct.Struct("<HHII"), ">": struct.Struct(">HHII")}
_DTYPES = {
    (form, bits): np.dtype(f"{kind}{bits // 8}")
    for form, kind, sizes in ((1, "u", (8, 16, 32)), (2, "i", (8, 16, 32)), (3, "f", (32, 64)))
    for bits in sizes
}


class UnknownLayoutError(SourceError):
    """A TIFF may be sound, but the strip reader doesn't know its layout; rasterio may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What the header says of one page."""

    width: int
    """Columns."""
    height: int
    """Rows."""
    samples: int
    """Bands."""
    dtype: np.dtype
    """Pixel type in native byte order."""
    big_endian: bool
    """Byte order of the file."""
    compression: int
    """TIFF compression: 1 none, 5 LZW, 7 JPEG, 8 and 32946 deflate, 50000 zstd."""
    predictor: int
    """1 none, 2 horizontal differences, 3 floating point."""
    rows_per_strip: int
    """Rows of every strip but the last; a single band's adjoining strips, unpacked, are one."""
    strip_offsets: tuple[int, ...]
    """First byte of each strip; all strips of band 0, then of band 1, …"""
    strip_lengths: tuple[int, ...]
    """Bytes of each strip."""
    geo: GeoTags
    """Georeference, to be carried over as it is."""
    description: str
    """ImageDescription, or nothing."""


def read_pages(
    data: Buffer, *, name: str, georeference: bool = True, limit: int | None = None
) -> list[Page]:
    """Read the headers of the pages of a classic TIFF, of either byte order.

    Args:
        data: The file, or as much of it as holds the pages wanted.
        name: What to call it in errors.
        georeference: Whether to read the tags that say where the page lies; pixels need them not.
        limit: Read this many pages and look at no further ones; all of them if not given.

    Raises:
        UnknownLayoutError: It is not a TIFF whose bands lie in strips of their own.
        SourceError: It is not a TIFF, or its header is cut.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(data[:4]))
    if order is None:
        if bytes(data[:4]) in (b"II+\0", b"MM\0+"):
            raise UnknownLayoutError(f"{name} is a BigTIFF, which the strip reader doesn't know.")
        raise SourceError(f"{name} ({len(data)} bytes) is not a TIFF. Download it again.")
    pages: list[Page] = []
    geo_tags = GEO_TAGS if georeference else ()
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        while start and len(pages) != limit:
            if len(pages) == MAX_PAGES:
                raise SourceError(f"{name} has over {MAX_PAGES} pages; its page list is damaged.")
            (count,) = struct.unpack_from(order + "H", data, start)
            tags = _Directory(data, order, start, count)
            pages.append(_page(tags, geo_tags, big_endian=order == ">", name=name))
            (start,) = struct.unpack_from(order + "I", data, start + 2 + 12 * count)
        if not pages:
            raise ValueError("no page")
    except (struct.error, KeyError, ValueError) as error:
        raise SourceError(
            f"{name} ({len(data)} bytes) has a cut or damaged TIFF header: {error!r}. "
            "Download it again."
        ) from error
    return pages


class _Directory:
    """The tags of one page."""

    __slots__ = ("_data", "_entries", "_little", "_order")

    def __init__(self, data: Buffer, order: str, start: int, count: int) -> None:
        entries = memoryview(data)[start + 2 : start + 2 + 12 * count]
        self._data = data
        self._order = order
        self._little = order == "<"
        self._entries = {entry[0]: entry for entry in _ENTRIES[order].iter_unpack(entries)}

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def values(self, tag: int) -> tuple[Any, ...]:
        """All values of a tag that is there."""
        _, kind, count, value = self._entries[tag]
        char, size = _TYPES[kind]
        form = f"{self._order}{count}{char}"
        if size * count > 4:
            return struct.unpack_from(form, self._data, value)
        return struct.unpack_from(form, struct.pack(self._order + "I", value))

    def whole_numbers(self, tag: int) -> tuple[int, ...]:
        """All values of a tag that is there and holds whole numbers."""
        values = self.values(tag)
        if not all(type(value) is int for value in values):
            raise ValueError(f"tag {tag} holds no whole numbers")
        return values

    def first(self, tag: int, default: int | None = None) -> int:
        """The first value of a tag; it has to be there if there is no default."""
        entry = self._entries.get(tag)
        if entry is None and default is not None:
            return default
        if entry is not None and self._little and entry[2] == 1:  # most tags: one number, in place
            return entry[3] & 0xFFFF if entry[1] == 3 else entry[3]
        (value, *_) = self.whole_numbers(tag)
        return value

    def geo(self, tag: int) -> tuple[int, int, bytes]:
        """Type, count and little-endian values of a tag."""
        _, kind, count, value = self._entries[tag]
        char, size = _TYPES[kind]
        if self._little and size * count > 4:
            if value + size * count > len(self._data):
                raise ValueError(f"tag {tag} ends behind the file")
            return kind, count, bytes(self._data[value : value + size * count])
        return kind, count, struct.pack(f"<{count}{char}", *self.values(tag))


def _page(tags: _Directory, geo_tags: Sequence[int], *, big_endian: bool, name: str) -> Page:
    first = tags.first
    width, height, samples = first(256), first(257), first(277, 1)
    form, bits = first(339, 1), first(258, 1)
    compression, predictor = first(259, 1), first(317, 1)
    dtype = _DTYPES.get((form, bits))
    unknown = (
        "tiles" if 322 in tags
        else "shared JPEG tables" if 347 in tags
        else "pixel-interleaved bands" if samples > 1 and first(284, 1) != 2
        else "reversed bits" if first(266, 1) != 1
        else "no strip sizes" if 279 not in tags
        else f"compression {compression}" if compression not in _COMPRESSIONS
        else f"predictor {predictor}" if predictor not in (1, 2, 3)
        else f"{bits}-bit pixels of form {form}" if dtype is None
        else ""
    )  # fmt: skip
    if unknown or dtype is None:
        raise UnknownLayoutError(f"{name} has {unknown}, which the strip reader doesn't know.")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} × {height} pixels")
    rows = min(first(278, height), height)
    offsets, lengths = tags.whole_numbers(273), tags.whole_numbers(279)
    strips = samples * -(-height // rows) if rows else 0
    if not strips or not strips == len(offsets) == len(lengths):
        raise ValueError(f"{len(offsets)} strips where {strips} belong")
    if samples == 1 and compression == NONE and _adjoin(offsets, lengths):
        rows, offsets, lengths = height, offsets[:1], (sum(lengths),)
    return Page(
        width=width,
        height=height,
        samples=samples,
        dtype=dtype,
        big_endian=big_endian,
        compression=compression,
        predictor=predictor,
        rows_per_strip=rows,
        strip_offsets=offsets,
        strip_lengths=lengths,
        geo={tag: tags.geo(tag) for tag in geo_tags if tag in tags},
        description=tags.values(270)[0].rstrip(b"\0").decode("latin-1") if 270 in tags else "",
    )


def _adjoin(offsets: Sequence[int], lengths: Sequence[int]) -> bool:
    """Whether each strip begins where the one before ends: then they are as one, if not packed."""
    ends = map(int.__add__, offsets, lengths)
    return all(end == start for end, start in zip(ends, offsets[1:], strict=False))


def decode_sample(
    data: Buffer,
    page: Page,
    sample: int,
    *,
    name: str,
    out: Num[np.ndarray, "h w"] | None = None,
) -> Num[np.ndarray, "h w"]:
    """Decode one band of one page.

    Args:
        data: The file.
        page: Its page, from `read_pages`.
        sample: Which band of the page, from 0.
        name: What to call the file in errors.
        out: Where to put the pixels: C-contiguous, of the page's shape and type.

    Returns:
        The pixels, (height, width) of `page.dtype`: `out` if given.

    Raises:
        SourceError: A strip is cut or damaged.
    """
    if out is None:
        out = np.empty((page.height, page.width), page.dtype)
    assert out.shape == (page.height, page.width), "out has the page's shape"
    assert out.dtype == page.dtype, "out has the page's type"
    assert out.flags.c_contiguous, "strips are decoded in place"
    strips = -(-page.height // page.rows_per_strip)
    view = memoryview(data)
    for i in range(strips):
        start, length = (
            page.strip_offsets[sample * strips + i],
            page.strip_lengths[sample * strips + i],
        )
        rows = out[i * page.rows_per_strip : (i + 1) * page.rows_per_strip]
        try:
            if start + length > len(view):
                raise ValueError(f"the file ends at byte {len(view)}")
            _decode_strip(view[start : start + length], page, out=rows)
        except (ValueError, RuntimeError) as error:
            raise SourceError(
                f"{name}: strip {i} of band {sample} (bytes {start} to {start + length}) is cut or "
                f"damaged: {error}. Download the file again."
            ) from error
    return out


def _decode_strip(strip: memoryview, page: Page, *, out: Num[np.ndarray, "r w"]) -> None:
    if page.compression == JPEG:
        if page.dtype != np.uint8:
            raise ValueError(f"JPEG holds bytes, the header says {page.dtype}")
        pixels = decode_jpeg(strip, buffer=out)
        if pixels.shape[:2] != out.shape:
            raise ValueError(f"JPEG of {pixels.shape[:2]} pixels where {out.shape} belong")
        return
    inflate = _INFLATE.get(page.compression)
    raw = inflate(strip, out=out.nbytes) if inflate else strip
    if len(raw) != out.nbytes:
        raise ValueError(f"{len(raw)} bytes of pixels where {out.nbytes} belong")
    if page.predictor == 3:
        imagecodecs.floatpred_decode(
            np.frombuffer(raw, page.dtype).reshape(out.shape), axis=-1, out=out
        )
        return
    out[:] = np.frombuffer(raw, page.dtype.newbyteorder(">" if page.big_endian else "<")).reshape(
        out.shape
    )
    if page.predictor == 2:
        imagecodecs.delta_decode(out, axis=-1, out=out)
