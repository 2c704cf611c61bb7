"""Beginnings of GeoTIFFs of any layout: enough for their pages, and true to the slow definition."""

import io

import google_crc32c
import numpy as np
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.shard.prefixes import prefixes
from ssl4eo_stream.strips import decode_sample, read_pages


def tiff(sizes, *, byteorder, rows):
    """A GeoTIFF-like file of uncompressed pages of two bands."""
    sink = io.BytesIO()
    rng = np.random.default_rng(0)
    with tifffile.TiffWriter(sink, byteorder=byteorder) as writer:
        for size in sizes:
            writer.write(
                rng.integers(0, 255, (2, size, size), np.uint8),
                photometric="minisblack",
                planarconfig="separate",
                rowsperstrip=rows,
                metadata=None,
                description=f"page of {size}",
            )
    return sink.getvalue()


def headers_last(data):
    """The same file with the header of its first page moved to the end, as GDAL may put it."""
    (start,) = np.frombuffer(data, "<u4", 1, offset=4)
    (count,) = np.frombuffer(data, "<u2", 1, offset=start)
    header = data[start : start + 2 + 12 * count + 4]
    return data[:4] + np.uint32(len(data)).tobytes() + data[8:] + header


def holds(data, pages):
    """Whether all bands of the pages can be read from the data, pixel for pixel."""
    try:
        found = read_pages(data, name="x", limit=len(pages))
        for page in found:
            for sample in range(page.samples):
                decode_sample(data, page, sample, name="x")
    except SourceError:
        return False
    return found == pages


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    byteorder=st.sampled_from("<>"),
    rows=st.integers(1, 20),
    moved=st.booleans(),
)
def test_each_is_enough_for_its_pages_and_checked_by_its_crc32c(sizes, byteorder, rows, moved):
    data = tiff(sizes, byteorder=byteorder, rows=rows)
    if moved and byteorder == "<":
        data = headers_last(data)
    pages = read_pages(data, name="x")
    found = prefixes(data, pages=pages, name="x")
    assert len(found.ends) == len(sizes)
    assert sorted(found.ends) == list(found.ends)
    assert found.ends[-1] == len(data)
    for count, (end, crc32c) in enumerate(zip(found.ends, found.crc32c, strict=True), start=1):
        assert holds(data[:end], pages[:count])
        assert google_crc32c.value(data[:end]) == crc32c
        if end < len(data):
            assert not holds(data[: end - 1], pages[:count])
    if moved and byteorder == "<":
        assert set(found.ends) == {len(data)}
    elif len(sizes) > 1:
        assert found.ends[0] < len(data)
