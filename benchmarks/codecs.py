"""What do the codecs of a shard cost: bytes, encoding, decoding, and error?

Run: `taskset -c 1 python benchmarks/codecs.py --data TREE [--product s2c]`, TREE as published
(`TREE/<location>/<acquisition>/B1.tif …`); `codec_plot.py` draws what it writes.

A row is a codec, a scaling to bytes, and a grid. Scalings: `reflectance`, DN 0-10,000 on 0-255, as
shards have it (`dB` for s1, which is the other one already); `mean±2σ` of the whole data set, band
by band, as the small published edition has it. Grids: every band at its `native` size, as shards
have it; all at 10 m (`264`), upsampled from the source's values as the published LMDB has them.

Every patch is packed as a member of a shard and decoded again, in turn: by the loader's decoder,
whose time is given, and by rasterio; times are the processor's, of this one process. What this
package's strip reader stores is compared with rasterio's pixels. The error is that of the stored
value against the source on the row's grid, in digital numbers of the band (dB for s1), mean
absolute over all pixels that the byte range holds; the share that it does not hold is given as
clipped. `seen at 10 m` is the same after both were resampled to 264 pixels, which makes rows of
both grids comparable. Every repeat measures all rows, one after the other.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import rasterio
from rasterio.io import MemoryFile
from report import summary, table, write_result

from ssl4eo_stream.bands import PATCH_METRES, PRODUCTS, Product
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.shard.form import Form
from ssl4eo_stream.shard.locations import encode
from ssl4eo_stream.shard.quantize import from_bytes
from ssl4eo_stream.shard.source import Patch, list_ids, product_folder, read_location, read_patch
from ssl4eo_stream.stream.decode import Decoder
from ssl4eo_stream.strips import decode_sample, read_pages

CODECS = ("jpeg:50", "jpeg:75", "jpeg:85", "jpeg:90", "jpeg:95", "jpeg:98", "zstd", "zstd16")
FINEST_METRES = 10
Bands = Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Patches on a grid, and how they become bytes."""

    scaling: str
    """`reflectance`, `dB` or `mean±2σ`."""
    grid: str
    """`native` or `264`."""
    product: Product
    """The product, were it made that way."""
    patches: Sequence[Patch]
    """The source's values on that grid."""


def variants(product: Product, patches: Sequence[Patch]) -> list[Variant]:
    """Return the combinations of scaling and grid that differ for a product."""
    spread = tuple(
        replace(band, scale=4 * band.std / 255, offset=band.mean - 2 * band.std)
        for band in product.bands
    )
    scalings = {"reflectance": product.bands, "mean±2σ": spread}
    if product.dtype == "float32":
        scalings = {"dB": product.bands}
    found = []
    for scaling, bands in scalings.items():
        found.append(Variant(scaling=scaling, grid="native", patches=patches,
                             product=replace(product, bands=bands)))  # fmt: skip
        fine = tuple(replace(band, resolution_metres=FINEST_METRES) for band in bands)
        if fine != bands:
            found.append(Variant(scaling=scaling, grid=str(fine[0].pixels),
                                 product=replace(product, bands=fine),
                                 patches=[upsampled(patch) for patch in patches]))  # fmt: skip
    return found


def upsampled(patch: Patch) -> Patch:
    """Return a patch with all bands at 10 m, as the published conversion resamples them."""
    return replace(patch, bands=tuple(map(fine, patch.bands)), geo=patch.geo[:1])


def fine(band: np.ndarray) -> np.ndarray:
    """Return a band at 10 m."""
    size = (PATCH_METRES // FINEST_METRES,) * 2
    # The exact kind, which the published conversion takes, knows whole numbers alone.
    kind = cv2.INTER_LINEAR if band.dtype.kind == "f" else cv2.INTER_LINEAR_EXACT
    return cv2.resize(band, size, interpolation=kind)


def decode_ours(member: bytes) -> list[np.ndarray]:
    """Decode all bands of a member, page by page."""
    return [
        decode_sample(member, page, sample, name="member")
        for page in read_pages(member, name="member")
        for sample in range(page.samples)
    ]


def decode_rasterio(member: bytes, *, pages: int) -> list[np.ndarray]:
    """The same through GDAL."""
    bands: list[np.ndarray] = []
    with MemoryFile(member) as file:
        for page in range(1, pages + 1):
            with rasterio.open(f"GTIFF_DIR:{page}:{file.name}") as image:
                bands.extend(image.read())
    return bands


def form(product: Product, codec: Codec) -> Form:
    """Return what members of a product look like."""
    return Form(
        product=product.name,
        pages=tuple(tuple(product.names[c] for c in grid.channels) for grid in product.grids),
        dtype=product.dtype if codec.keeps_source_values else "uint8",
    )


def values_of(stored: Bands, *, product: Product) -> list[np.ndarray]:
    """Return what was stored in the bands' unit, float32 in the product's band order."""
    order = [channel for grid in product.grids for channel in grid.channels]
    values = dict(zip(order, stored, strict=True))
    return [
        from_bytes(values[c], band=band) if values[c].dtype == np.uint8
        else values[c].astype(np.float32)
        for c, band in enumerate(product.bands)
    ]  # fmt: skip


def errors_of(values: Bands, sources: Bands, *, product: Product) -> np.ndarray:
    """Return of each band: the mean absolute error where bytes hold the source, and that share."""
    found = []
    for value, source, band in zip(values, sources, product.bands, strict=True):
        held = (source >= band.offset) & (source <= band.offset + 255 * band.scale)
        error = np.abs(value - source.astype(np.float32))
        found.append((error[held].mean() if held.any() else 0.0, held.mean()))
    return np.array(found).T


class Row:
    """One line of the table: what is measured of it, repeat by repeat."""

    def __init__(self, variant: Variant, codec: Codec) -> None:
        self.variant, self.codec = variant, codec
        self._decoder = Decoder(form(variant.product, codec).manifest())
        self._milliseconds: dict[str, list[float]] = {"encode": [], "decode": [], "rasterio": []}
        self._members: list[bytes] = []

    def measure(self) -> None:
        """Encode and decode every patch once."""
        patches, product = self.variant.patches, self.variant.product
        start = time.process_time()
        members = [encode(patch, product=product, codec=self.codec) for patch in patches]
        encoded = time.process_time()
        for member in members:
            self._decoder(member, name="member")
        ours = time.process_time()
        for member in members:
            decode_rasterio(member, pages=len(product.grids))
        end = time.process_time()
        for name, seconds in (("encode", encoded - start), ("decode", ours - encoded),
                              ("rasterio", end - ours)):  # fmt: skip
            self._milliseconds[name].append(seconds * 1000 / len(patches))
        self._members = members

    def line(self) -> dict[str, object]:
        """Return what the table says."""
        product, patches = self.variant.product, self.variant.patches
        decoded = [decode_ours(member) for member in self._members]
        theirs = [decode_rasterio(member, pages=len(product.grids)) for member in self._members]
        equal = all(
            np.array_equal(a, b)
            for one, other in zip(decoded, theirs, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        native, seen = [], []
        for patch, bands in zip(patches, decoded, strict=True):
            values, sources = values_of(bands, product=product), patch.bands
            native.append(errors_of(values, sources, product=product))
            sources = [source.astype(np.float32) for source in sources]
            seen.append(errors_of([*map(fine, values)], [*map(fine, sources)], product=product))
        (errors, held), (at_fine, _) = np.mean(native, axis=0), np.mean(seen, axis=0)
        spread = np.array([np.std([p.bands[c] for p in patches]) for c in range(len(errors))])
        times = {name: summary(values, digits=2) for name, values in self._milliseconds.items()}

        def by_band(what: str, values: np.ndarray) -> dict[str, float]:
            pairs = zip(product.names, values, strict=True)
            return {f"{what} {name}": round(float(value), 3) for name, value in pairs}

        source = self.codec.keeps_source_values
        return {
            "scaling": "source values" if source else self.variant.scaling,
            "grid": self.variant.grid,
            "codec": str(self.codec),
            "kilobytes": round(sum(map(len, self._members)) / len(patches) / 1000, 1),
            "encode ms": times["encode"]["median"],
            "decode ms": times["decode"]["median"],
            "decode ms, quartiles": f"{times['decode']['low']}–{times['decode']['high']}",
            "rasterio ms": times["rasterio"]["median"],
            "equal to rasterio": "yes" if equal else "NO",
            "clipped %": 0.0 if source else round(100 * (1 - float(held.mean())), 2),
            "mean error": round(float(errors.mean()), 3),
            "mean error seen at 10 m": round(float(at_fine.mean()), 3),
            "error, % of the band's std, median band":
                round(100 * float(np.median(errors / spread)), 2),
            **by_band("error", errors), **by_band("seen", at_fine), **by_band("std", spread),
        }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Bytes, time and error of the codecs.")
    parser.add_argument("--data", type=Path, required=True, help="tree of GeoTIFFs")
    parser.add_argument("--product", choices=tuple(PRODUCTS), default="s2c")
    parser.add_argument("--patches", type=int, default=48, help="patches to take")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, help="folder for the result, if not the usual one")
    options = parser.parse_args()
    product = PRODUCTS[options.product]
    folder = product_folder(options.data, product=product.name)
    acquisitions = [
        acquisition
        for _, name in sorted(list_ids(folder).items())
        for acquisition in read_location(folder / name, product=product).acquisitions
    ]
    # Spread over the tree: neighbours in it are the dates of one place.
    step = max(1, len(acquisitions) // options.patches)
    patches = [
        read_patch(acquisition, product=product)
        for acquisition in acquisitions[::step][: options.patches]
    ]
    codecs = [Codec.parse(text) for text in CODECS]
    found = variants(product, patches)
    lines = [
        Row(variant, codec)
        for variant in found
        for codec in codecs
        if not codec.keeps_source_values or variant.scaling == found[0].scaling
    ]
    for _ in range(options.repeats):
        for line in lines:
            line.measure()
    rows = [line.line() for line in lines]
    brief = [c for c in rows[0] if not c.startswith(("error ", "seen ", "std "))]
    print(table([{column: row[column] for column in brief} for row in rows]))
    where = {} if options.results is None else {"folder": options.results}
    path = write_result(
        f"codecs_{product.name}",
        question=f"What do the codecs of a shard cost, per {product.title} patch?",
        repeats=options.repeats,
        rows=rows,
        **where,
    )
    print(path.name)


if __name__ == "__main__":
    main()
