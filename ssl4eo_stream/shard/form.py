"""What GeoTIFFs of a shard made elsewhere are: their product, their pages, and their codec."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from ssl4eo_stream.bands import PRODUCTS, Product
from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.shard.manifest import SCHEMA_VERSION, Manifest
from ssl4eo_stream.strips import DEFLATE, JPEG, LZW, NONE, OLD_DEFLATE, ZSTD, Page

COMPRESSIONS = {
    NONE: "none", LZW: "lzw", DEFLATE: "deflate", OLD_DEFLATE: "deflate", ZSTD: "zstd",
}  # fmt: skip
UNKNOWN_QUALITY = "jpeg:?"
"""JPEG whose tables are not those of libjpeg at any quality."""
QUALITY_50 = np.array(
    (
        16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40,
        26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51,
        56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87,
        95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99,
    )
)  # fmt: skip
"""Luminance quantisation in zigzag order (ITU-T T.81, table K.1): libjpeg's at quality 50."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What all GeoTIFFs of a data set have in common."""

    product: str
    """`s1`, `s2a` or `s2c`."""
    pages: tuple[tuple[str, ...], ...]
    """Band names of every page, in sample order."""
    dtype: str
    """NumPy type of the pixels: uint8, or the product's own."""

    def manifest(self) -> Manifest:
        """Return a manifest of such GeoTIFFs, without shards.

        Bytes are taken to mean what this package makes them mean; the codec is left open.
        """
        product, raw = PRODUCTS[self.product], self.dtype != "uint8"
        return Manifest(
            schema_version=SCHEMA_VERSION,
            product=product.name,
            bands=product.names,
            pages=self.pages,
            codec="",
            dtype=self.dtype,
            scale=tuple(1.0 if raw else band.scale for band in product.bands),
            offset=tuple(0.0 if raw else band.offset for band in product.bands),
            samples_per_shard=0,
            locations=0,
            patches=0,
            shards=(),
            index_sha256="",
        )

    @property
    def text(self) -> str:
        """How messages put it."""
        return f"{self.dtype} {self.product} of pages {' | '.join(map(' '.join, self.pages))}"


def form_of(pages: Sequence[Page], *, product: str | None, where: str) -> Form:
    """Tell a GeoTIFF's product and bands by the text of its pages, else by their sizes.

    Args:
        pages: Its pages.
        product: Which product it has to be; any if None.
        where: What to call it in errors.

    Raises:
        ShardError: It is no product, or not the one asked for, or its pixels are of another type.
    """
    sizes = [(page.height, page.width, page.samples) for page in pages]
    found = _by_text(pages) or _by_sizes(sizes)
    if found is None or product not in (None, found[0].name) or sizes != _sizes(*found):
        asked = [PRODUCTS[product]] if product else list(PRODUCTS.values())
        forms = "; ".join(f"{each.name} has {_sizes(each, _pages(each))}" for each in asked)
        text = f"{found[0].name} " if found else ""
        raise ShardError(
            f"{where} is {text}of pages {sizes} (rows, columns, bands); {forms}. Shards hold all "
            "bands of one product, each at its native size."
        )
    spec, bands = found
    dtypes = {str(page.dtype) for page in pages}
    if dtypes not in ({"uint8"}, {spec.dtype}):
        raise ShardError(
            f"{where} has {' and '.join(sorted(dtypes))} pixels; {spec.name} is stored as uint8 "
            f"or {spec.dtype}."
        )
    return Form(product=spec.name, pages=bands, dtype=dtypes.pop())


Bands = tuple[tuple[str, ...], ...]


def _pages(product: Product) -> Bands:
    return tuple(tuple(product.names[c] for c in grid.channels) for grid in product.grids)


def _sizes(product: Product, pages: Bands) -> list[tuple[int, int, int]]:
    pixels = {band.name: band.pixels for band in product.bands}
    return [(pixels[page[0]], pixels[page[0]], len(page)) for page in pages]


def _by_text(pages: Sequence[Page]) -> tuple[Product, Bands] | None:
    """Read what this package writes into every page: `s2c B2 B3 B4 B8`."""
    words = [page.description.split() for page in pages]
    names = {each[0] if each else "" for each in words}
    product = PRODUCTS.get(names.pop()) if len(names) == 1 else None
    bands = tuple(tuple(each[1:]) for each in words)
    if product is None or sorted(sum(bands, ())) != sorted(product.names):
        return None
    pixels = {band.name: band.pixels for band in product.bands}
    return (product, bands) if all(len({pixels[b] for b in page}) == 1 for page in bands) else None


def _by_sizes(sizes: list[tuple[int, int, int]]) -> tuple[Product, Bands] | None:
    for product in PRODUCTS.values():
        if sizes == _sizes(product, _pages(product)):
            return product, _pages(product)
    return None


def codec_of(data: bytes, page: Page) -> str:
    """Return how a page is stored: `jpeg:Q`, `zstd`, …, with `16` where pixels are source values.

    The quality is the one at which libjpeg has the first strip's quantisation table; JPEGs with
    other tables are `jpeg:?`.
    """
    if page.compression == JPEG:
        start = page.strip_offsets[0]
        return _quality(data[start : start + page.strip_lengths[0]])
    return COMPRESSIONS[page.compression] + ("" if page.dtype == np.uint8 else "16")


def _quality(strip: bytes) -> str:
    at = strip.find(b"\xff\xdb\x00\x43\x00")  # one table of 64 bytes, number 0
    quality = _qualities().get(strip[at + 5 : at + 69]) if at >= 0 else None
    return UNKNOWN_QUALITY if quality is None else f"jpeg:{quality}"


@cache
def _qualities() -> dict[bytes, int]:
    """Return what libjpeg makes of each quality (`jpeg_quality_scaling`): table -> quality."""
    scales = {q: 5000 // q if q < 50 else 200 - 2 * q for q in range(1, 101)}
    return {
        np.clip((QUALITY_50 * scale + 50) // 100, 1, 255).astype(np.uint8).tobytes(): quality
        for quality, scale in scales.items()
    }
