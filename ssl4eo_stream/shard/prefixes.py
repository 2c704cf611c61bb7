"""Where the pages of a GeoTIFF end: what a reader of its first pages must fetch and check."""

from collections.abc import Sequence
from dataclasses import dataclass

import google_crc32c

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.strips import Page, read_pages


@dataclass(frozen=True, kw_only=True)
class Prefixes:
    """The beginnings of a GeoTIFF that hold its first page, its first two, … and all of them."""

    ends: tuple[int, ...]
    """Bytes of each, ascending; the last is the file's length."""
    crc32c: tuple[int, ...]
    """CRC-32C of each; the last is the file's."""


def prefixes(data: bytes, *, pages: Sequence[Page], name: str) -> Prefixes:
    """Find the beginnings of a GeoTIFF that are enough for its first pages.

    Headers and strips may lie anywhere in a file made elsewhere. Where a beginning that holds a
    page's strips does not hold its header as well, all of the file is taken.

    Args:
        data: The file.
        pages: All its pages, from `read_pages`.
        name: What to call it in errors.
    """
    ends: list[int] = []
    for count, page in enumerate(pages[:-1], start=1):
        strips = zip(page.strip_offsets, page.strip_lengths, strict=True)
        end = max(start + length for start, length in strips)
        end = min(len(data), max([end, *ends[-1:]]))
        ends.append(end if _holds(data[:end], pages[:count], name=name) else len(data))
    ends.append(len(data))
    sums: list[int] = []
    crc32c = start = 0
    for end in ends:
        crc32c = google_crc32c.extend(crc32c, data[start:end])
        sums.append(crc32c)
        start = end
    return Prefixes(ends=tuple(ends), crc32c=tuple(sums))


def _holds(data: bytes, pages: Sequence[Page], *, name: str) -> bool:
    """Whether the beginning of a file reads as these pages."""
    try:
        return read_pages(data, name=name, limit=len(pages)) == list(pages)
    except SourceError:
        return False
