"""What manifest and index say of one shard; whether that is so, at the speed of hashing it."""

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import google_crc32c
import numpy as np
from jaxtyping import Int64, UInt32

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.manifest import Index, Manifest, ShardEntry
from ssl4eo_stream.shard.pack import StoppedError
from ssl4eo_stream.shard.processes import stopped
from ssl4eo_stream.store import Store
from ssl4eo_stream.strips import Page, read_pages
from ssl4eo_stream.tars import RANGE_BYTES

Pages = tuple[tuple[int, int, int, str], ...]
"""Rows, columns, bands and pixel type of each page of a GeoTIFF."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The GeoTIFFs of one shard, as the index lists them."""

    ids: Int64[np.ndarray, " d"]
    """Location id of each."""
    dates: Int64[np.ndarray, " d"]
    """Which of the location's dates each is."""
    offsets: Int64[np.ndarray, " d"]
    """First byte of each in the tar."""
    page_ends: Int64[np.ndarray, "d p"]
    """Bytes of each one's beginning through each page; the last is its length."""
    page_crc32c: UInt32[np.ndarray, "d p"]
    """CRC-32C of each such beginning; the last is that of all of it."""

    @classmethod
    def of(cls, index: Index, number: int) -> "Listed":
        """Take one shard out of the index."""
        rows = np.flatnonzero(index.shards == number)
        counts = index.first_date[rows + 1] - index.first_date[rows]
        dates = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(index.first_date[rows], counts) + dates
        return cls(
            ids=np.repeat(index.ids[rows], counts),
            dates=dates,
            offsets=index.offsets[at],
            page_ends=index.page_ends[at],
            page_crc32c=index.page_crc32c[at],
        )


@dataclass(frozen=True, kw_only=True)
class ShardToCheck:
    """One shard, and what is said of it; travels to the process that reads it."""

    url: str
    """The folder, credentials and all: never shown."""
    number: int
    """Shard number."""
    name: str
    """File name."""
    entry: ShardEntry | None
    """Its line of the manifest, if it has one."""
    pages: Pages | None
    """What the manifest says of every GeoTIFF; None if there is no manifest."""
    listed: Listed | None
    """What the index lists; None if there is no index."""
    vouched: bool
    """Whether the index is the manifest's."""


def expected_pages(manifest: Manifest) -> Pages:
    """Return what the manifest says of every GeoTIFF.

    Raises:
        ShardError: It names a band that its product does not have.
    """
    pixels = {band.name: band.pixels for band in PRODUCTS[manifest.product].bands}
    if unknown := {band for page in manifest.pages for band in page} - pixels.keys():
        raise ShardError(f"{manifest.product} has no band {', '.join(sorted(unknown))}")
    return tuple(
        (pixels[bands[0]], pixels[bands[0]], len(bands), manifest.dtype)
        for bands in manifest.pages
        if bands
    )


def is_as_said(store: Store, task: ShardToCheck, *, size: int) -> bool:
    """Read a shard once, and say whether it is what manifest and index say.

    Compares the tar's sha256, every GeoTIFF's header in the tar, the CRC-32C of its beginnings, and
    the pages of the first. The others' pages and the JSONs are then those that were looked at when
    the index was made. False is no verdict: it may be that nothing vouches for the shard, or that
    its tar is of another kind than this package writes.

    Raises:
        StorageError: It can't be read.
        StoppedError: The pool that this process belongs to is at its end.
    """
    entry, listed = task.entry, task.listed
    if not task.vouched or entry is None or listed is None or size != entry.bytes:
        return False
    rows = np.argsort(listed.offsets)
    starts, ends = listed.offsets[rows], listed.offsets[rows] + listed.page_ends[rows, -1]
    headers = starts - tarfile.BLOCKSIZE
    if not len(rows) or headers[0] < 0 or ends[-1] > size or (headers[1:] < ends[:-1]).any():
        return False
    sha256 = hashlib.sha256()
    for start, stop, first, last in _ranges(headers.tolist(), ends.tolist(), size=size):
        data = store.read_range(task.name, start=start, end=stop)
        sha256.update(data)
        for i in range(first, last):
            if not _is_listed(data, int(starts[i]) - start, listed, row=int(rows[i])):
                return False
        if first == 0 < last and not _has_pages(bytes(data[starts[0] - start :]), task.pages):
            return False
        if stopped():
            raise StoppedError
    return sha256.hexdigest() == entry.sha256


def _is_listed(data: memoryview, at: int, listed: Listed, *, row: int) -> bool:
    """Whether the GeoTIFF that begins at a byte has the name, length and sums of an index's row."""
    ends = listed.page_ends[row].tolist()
    name = f"{location_key(int(listed.ids[row]))}.t{listed.dates[row]}.tif"
    header = bytes(data[at - tarfile.BLOCKSIZE : at])
    return (
        header[:100].rstrip(b"\0").rpartition(b"/")[2] == name.encode()
        and header[124:135] == b"%011o" % ends[-1]
        and sums_of(bytes(data[at : at + ends[-1]]), ends) == listed.page_crc32c[row].tolist()
    )


def _has_pages(data: bytes, pages: Pages | None) -> bool:
    try:
        return shapes_of(read_pages(data, name="", georeference=False)) == pages
    except SourceError:
        return False


def _ranges(
    headers: Sequence[int], ends: Sequence[int], *, size: int
) -> Iterator[tuple[int, int, int, int]]:
    """Cut a tar into ranges [start, stop) that hold members [first, last) and their headers."""
    start = first = 0
    while start < size:
        last, stop = first, start + RANGE_BYTES
        while last < len(ends) and ends[last] <= stop:
            last += 1
        if last < len(ends) and headers[last] == start:  # larger than a range
            last, stop = last + 1, ends[last]
        elif last < len(ends):
            stop = min(stop, headers[last])
        yield start, min(stop, size), first, last
        start, first = stop, last


def sums_of(data: bytes, ends: Sequence[int]) -> list[int]:
    """Return the CRC-32C of each beginning."""
    sums, start = [0], 0
    for end in ends:
        sums.append(google_crc32c.extend(sums[-1], data[start:end]))
        start = end
    return sums[1:]


def shapes_of(pages: Sequence[Page]) -> Pages:
    """Return what a manifest says of these pages."""
    return tuple((page.height, page.width, page.samples, str(page.dtype)) for page in pages)
