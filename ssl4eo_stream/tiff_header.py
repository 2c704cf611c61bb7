"""Headers of TIFF pages: written by tifffile once for each form of page, then filled in.

The header of a page is the same for every patch of a product but for where its strips lie, how
long they are and what its georeference says. Filling those in takes a tenth of writing it anew, and
gives the same bytes. Single bands are written by tifffile as they are. The only importer of it.
"""

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import tifffile
from jaxtyping import Num

from ssl4eo_stream.strips import GeoTags

FIRST_PAGE = 8
"""Where the first page of a file begins: behind byte order, version and this number."""
STRIP_OFFSETS, STRIP_LENGTHS, DESCRIPTION = 273, 279, 270
DATA_ALIGNMENT = 16
"""The first strip of a page begins at a multiple of this, as tifffile has it."""
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 12: 8}
"""TIFF type -> bytes of a value."""


@dataclass(frozen=True, kw_only=True)
class PageForm:
    """All that decides the form of a page's header."""

    samples: int
    """Bands, each one strip."""
    height: int
    """Rows."""
    width: int
    """Columns."""
    dtype: str
    """NumPy name of the pixels' type."""
    compression: str
    """tifffile's name of it."""
    predictor: int | None
    """TIFF predictor, where there is one."""
    description: str
    """Text of ImageDescription, ASCII."""
    geo: tuple[tuple[int, int, int], ...]
    """Number, type and count of each georeference tag, in order."""


@dataclass(frozen=True, kw_only=True)
class _Template:
    """A header that lies at byte 8, and where in it is what differs."""

    header: bytes
    """Directory and values, as far as the first strip."""
    relative: tuple[int, ...]
    """Where offsets into the header itself stand, which move with it."""
    strip_offsets: struct.Struct
    """How offsets of strips are written."""
    offsets_at: int
    """Where."""
    strip_lengths: struct.Struct
    """How lengths of strips are written."""
    lengths_at: int
    """Where."""
    geo_at: tuple[int, ...]
    """Where the values of each georeference tag stand."""
    next_at: int
    """Where the offset of the next page stands."""


def join_pages(pages: Sequence[tuple[PageForm, GeoTags, Sequence[bytes]]]) -> bytes:
    """Return a little-endian TIFF of pages, byte for byte as tifffile writes it.

    Args:
        pages: Of each, its form, its georeference, and its bands' strips, encoded.
    """
    out = bytearray(b"II*\0" + struct.pack("<I", FIRST_PAGE))
    link = 4
    for form, geo, strips in pages:
        out += bytes(len(out) % 2)
        base, made = len(out), _template(form)
        struct.pack_into("<I", out, link, base)
        out += made.header
        for at in made.relative:
            (offset,) = struct.unpack_from("<I", made.header, at)
            struct.pack_into("<I", out, base + at, offset - FIRST_PAGE + base)
        for at, (_, (_, _, raw)) in zip(made.geo_at, sorted(geo.items()), strict=True):
            out[base + at : base + at + len(raw)] = raw
        out += bytes(-len(out) % DATA_ALIGNMENT)
        lengths = [len(strip) for strip in strips]
        ends = [len(out)]
        for length in lengths:
            ends.append(ends[-1] + length)
        made.strip_offsets.pack_into(out, base + made.offsets_at, *ends[:-1])
        made.strip_lengths.pack_into(out, base + made.lengths_at, *lengths)
        for strip in strips:
            out += strip
        link = base + made.next_at
    return bytes(out)


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
        sink,
        pixels,
        byteorder="<",
        photometric="minisblack",
        rowsperstrip=len(pixels) if rows_per_strip is None else rows_per_strip,
        metadata=None,
        software=False,
        extratags=[(tag, *value, True) for tag, value in sorted(geo.items())],
    )
    return sink.getvalue()


@lru_cache(maxsize=64)
def _template(form: PageForm) -> _Template:
    """Have tifffile write a page of a form, nothing in its strips, and find the way in it."""
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink, byteorder="<") as writer:
        writer.write(
            iter([b"\0"] * form.samples),
            compression=form.compression,
            predictor=form.predictor,
            shape=(form.samples, form.height, form.width),
            dtype=form.dtype,
            photometric="minisblack",
            planarconfig="separate",
            rowsperstrip=form.height,
            metadata=None,
            software=False,
            description=form.description,
            extratags=[
                (tag, kind, count, bytes(_SIZES[kind] * count), True)
                for tag, kind, count in form.geo
            ],
            maxworkers=1,
        )
    data = sink.getvalue()
    (count,) = struct.unpack_from("<H", data, FIRST_PAGE)
    relative: list[int] = []
    found: dict[int, tuple[int, int, int]] = {}
    end = next_at = FIRST_PAGE + 2 + 12 * count
    end += 4
    for i in range(count):
        entry = FIRST_PAGE + 2 + 12 * i
        tag, kind, number, value = struct.unpack_from("<HHII", data, entry)
        at, size = entry + 8, _SIZES[kind] * number
        if size > 4:
            relative.append(at - FIRST_PAGE)
            at, end = value, max(end, value + size)
        found[tag] = (at - FIRST_PAGE, kind, number)

    def numbers(tag: int) -> tuple[struct.Struct, int]:
        at, kind, number = found[tag]
        return struct.Struct(f"<{number}{'H' if kind == 3 else 'I'}"), at

    strip_offsets, offsets_at = numbers(STRIP_OFFSETS)
    strip_lengths, lengths_at = numbers(STRIP_LENGTHS)
    return _Template(
        header=data[FIRST_PAGE:end], relative=tuple(relative), strip_offsets=strip_offsets,
        offsets_at=offsets_at, strip_lengths=strip_lengths, lengths_at=lengths_at,
        geo_at=tuple(found[tag][0] for tag, _, _ in form.geo), next_at=next_at - FIRST_PAGE,
    )  # fmt: skip
