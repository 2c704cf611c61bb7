"""Bytes of one member -> one uint8 plane per channel, each at its native size."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.strips import JPEG, Buffer, Page, decode_jpeg, decode_sample, read_pages

Planes = list[UInt8[np.ndarray, "_ _"]]

MAX_LAYOUTS = 8
"""Layouts remembered of a page; what this package writes has one."""
BITS, SAMPLE_FORMAT, STRIP_OFFSETS, STRIP_LENGTHS = 258, 339, 273, 279
MAGIC, HEAD = b"II*\0", struct.Struct("<4sI")
NUMBER = struct.Struct("<I")
ENTRY = struct.Struct("<HHII")
SIZES = {1: 1, 2: 1, 3: 2, 4: 4}
"""Bytes of a TIFF type's value where that is less than eight."""
WHOLE = {1: "B", 3: "H", 4: "I"}
"""TIFF types of whole numbers, in the letters of `struct`."""


class Decoder:
    """Decodes the members of one data set. Shards that keep raw values are quantized on the way.

    Attributes:
        last_page: The last page that the channels need, from 0. The bytes of a member up to this
            page's end are enough.
    """

    def __init__(self, manifest: Manifest, *, channels: Sequence[int] | None = None) -> None:
        """Make a decoder.

        Args:
            manifest: The data set's.
            channels: Positions in the product's band order, in the order wanted; all if not given.
        """
        product = PRODUCTS[manifest.product]
        places = {
            band: (page, sample)
            for page, bands in enumerate(manifest.pages)
            for sample, band in enumerate(bands)
        }
        wanted = range(len(manifest.bands)) if channels is None else channels
        self._places = [places[manifest.bands[c]] for c in wanted]
        self._bands = [product.bands[c] for c in wanted]
        self._raw = manifest.dtype != "uint8"
        self.last_page = max(page for page, _ in self._places)
        self._known: list[list[_Layout]] = [[] for _ in range(self.last_page + 1)]

    def __call__(self, data: Buffer, *, name: str) -> Planes:
        """Decode a member.

        Args:
            data: The member's bytes, through `last_page` at least.
            name: What to call it in errors.

        Returns:
            One C-contiguous uint8 array (H, W) per channel, in the order of the channels.

        Raises:
            SourceError: The bytes are not such a member.
        """
        planes = self._decode_known(data)
        if planes is not None:
            return planes
        pages = read_pages(data, name=name, georeference=False, limit=self.last_page + 1)
        for (page, sample), band in zip(self._places, self._bands, strict=True):
            if page >= len(pages) or sample >= pages[page].samples:
                raise SourceError(
                    f"{name} has no band {sample + 1} on page {page + 1}, where its manifest has "
                    f"{band.name}. Build the shard again."
                )
        stored: list[Any] = [
            decode_sample(data, pages[page], sample, name=name) for page, sample in self._places
        ]
        self._learn(data, pages)
        if self._raw:
            pairs = zip(stored, self._bands, strict=True)
            return [to_bytes(values, band=band) for values, band in pairs]
        return stored

    def _decode_known(self, data: Buffer) -> Planes | None:
        """Decode a member laid out like one seen before; None if it isn't, or is damaged.

        The general reader adds a fourth to the codec's own time, this a twentieth. What is wrong
        with a damaged member is left to the general reader to say.
        """
        view = memoryview(data)
        found = []
        planes = []
        try:
            magic, start = HEAD.unpack_from(view)
            if magic != MAGIC:
                return None
            for layouts in self._known:
                for layout in layouts:
                    strips = layout.strips(view, start)
                    if strips:
                        break
                else:
                    return None
                found.append((strips, layout.shape))
                (start,) = NUMBER.unpack_from(view, start + layout.size)
            for page, sample in self._places:
                (starts, lengths), (height, width) = found[page]
                start = starts[sample]
                pixels = decode_jpeg(view[start : start + lengths[sample]])
                if pixels.shape != (height, width, 1):
                    return None
                planes.append(pixels.reshape(height, width))
        except (struct.error, ValueError):
            return None
        return planes

    def _learn(self, data: Buffer, pages: Sequence[Page]) -> None:
        """Remember the layout of a member that was decoded without fault."""
        (start,) = NUMBER.unpack_from(data, 4)
        for page, known in zip(pages, self._known, strict=True):
            one_strip_a_band = page.rows_per_strip == page.height
            if page.compression != JPEG or page.big_endian or not one_strip_a_band:
                return
            layout = _Layout(data, start, shape=(page.height, page.width))
            if len(known) < MAX_LAYOUTS and not any(each.strips(data, start) for each in known):
                known.append(layout)
            (start,) = NUMBER.unpack_from(data, start + layout.size)


class _Layout:
    """What the headers of a page have in common in all members: everything but where things lie.

    The entries of a header are compared at once, as one long number, without those of their values
    that are pointers; the pixels' type, which some point to, is compared where it lies.
    """

    def __init__(self, data: Buffer, start: int, *, shape: tuple[int, int]) -> None:
        self.shape = shape
        (count,) = struct.unpack_from("<H", data, start)
        self.size = 2 + 12 * count
        mask = bytearray(b"\xff" * self.size)
        self._pointed: list[tuple[int, bytes]] = []
        for at in range(2, self.size, 12):
            tag, kind, number, value = ENTRY.unpack_from(data, start + at)
            num_bytes = number * SIZES.get(kind, 8)
            if num_bytes > 4 or tag in (STRIP_OFFSETS, STRIP_LENGTHS):
                mask[at + 8 : at + 12] = bytes(4)
            if num_bytes > 4 and tag in (BITS, SAMPLE_FORMAT):
                self._pointed.append((at + 8, bytes(data[value : value + num_bytes])))
            if tag == STRIP_OFFSETS:
                self._offsets = _Numbers(at + 8, number, kind)
            elif tag == STRIP_LENGTHS:
                self._lengths = _Numbers(at + 8, number, kind)
        self._mask = int.from_bytes(mask, "little")
        self._header = int.from_bytes(data[start : start + self.size], "little") & self._mask

    def strips(self, data: Buffer, start: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Return each band's first byte and length, or None if the header there is another."""
        header = int.from_bytes(data[start : start + self.size], "little")
        if header & self._mask != self._header:
            return None
        for at, expected in self._pointed:
            (value,) = NUMBER.unpack_from(data, start + at)
            if data[value : value + len(expected)] != expected:
                return None
        return self._offsets.read(data, start), self._lengths.read(data, start)


class _Numbers:
    """An entry of several whole numbers, in place or pointed to."""

    def __init__(self, at: int, count: int, kind: int) -> None:
        self._at = at
        self._form = struct.Struct(f"<{count}{WHOLE[kind]}")
        self._pointed = self._form.size > 4

    def read(self, data: Buffer, start: int) -> tuple[int, ...]:
        """Return the numbers, of the header that begins at `start`."""
        place = start + self._at
        if self._pointed:
            (place,) = NUMBER.unpack_from(data, place)
        return self._form.unpack_from(data, place)
