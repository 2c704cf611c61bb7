"""What do the codecs of a shard cost: bytes, encoding, decoding, and error?

Run: `taskset -c 1 python benchmarks/codecs.py --data TREE [--product s2c]`, TREE as published
(`TREE/<location>/<acquisition>/B1.tif …`).

Every patch is packed as a member of a shard and decoded again, in turn: by the loader's decoder,
whose time is given, and by rasterio. What this package's strip reader stores is compared with
rasterio's pixels. The error is that of the stored value against the source, in digital numbers of
the band (dB for s1), mean over all pixels that the byte range holds; for the bands named in the
row.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from rasterio.io import MemoryFile
from report import summary, table, write_result

from ssl4eo_stream.bands import PRODUCTS, Product
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.shard.form import Form
from ssl4eo_stream.shard.locations import encode
from ssl4eo_stream.shard.quantize import from_bytes
from ssl4eo_stream.shard.source import Patch, list_ids, product_folder, read_location, read_patch
from ssl4eo_stream.stream.decode import Decoder
from ssl4eo_stream.strips import decode_sample, read_pages

CODECS = ("jpeg:50", "jpeg:75", "jpeg:85", "jpeg:90", "jpeg:95", "jpeg:98", "zstd", "zstd16")


def decode_ours(member: bytes) -> list[np.ndarray]:
    """Decode all bands of a member, page by page."""
    return [
        decode_sample(member, page, sample, name="member")
        for page in read_pages(member, name="member")
        for sample in range(page.samples)
    ]


def form(product: Product, codec: Codec) -> Form:
    """Return what members of a product look like."""
    return Form(
        product=product.name,
        pages=tuple(tuple(product.names[c] for c in grid.channels) for grid in product.grids),
        dtype=product.dtype if codec.keeps_source_values else "uint8",
    )


def decode_rasterio(member: bytes) -> list[np.ndarray]:
    """The same through GDAL."""
    bands: list[np.ndarray] = []
    with MemoryFile(member) as file:
        for page in (1, 2, 3):
            try:
                with file.open(driver="GTiff") if page == 1 else _page(file, page) as image:
                    bands.extend(image.read())
            except OSError:
                break  # this product has fewer pages
    return bands


def _page(file: MemoryFile, page: int):  # noqa: ANN202 - rasterio's readers have no common type
    import rasterio
    from rasterio.errors import RasterioIOError

    try:
        return rasterio.open(f"GTIFF_DIR:{page}:{file.name}")
    except RasterioIOError as error:
        raise OSError(str(error)) from error


def errors_of(patch: Patch, bands: list[np.ndarray], *, product: Product) -> np.ndarray:
    """Return each band's mean absolute error in its unit, where the byte range holds the value."""
    order = [channel for grid in product.grids for channel in grid.channels]
    errors = np.zeros(len(order))
    for stored, channel in zip(bands, order, strict=True):
        band, source = product.bands[channel], patch.bands[channel].astype(np.float64)
        value = from_bytes(stored, band=band) if stored.dtype == np.uint8 else stored
        held = (source >= band.offset) & (source <= band.offset + 255 * band.scale)
        errors[channel] = np.abs(value - source)[held].mean()
    return errors


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Bytes, time and error of the codecs.")
    parser.add_argument("--data", type=Path, required=True, help="tree of GeoTIFFs")
    parser.add_argument("--product", choices=tuple(PRODUCTS), default="s2c")
    parser.add_argument("--patches", type=int, default=48, help="patches to take")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    product = PRODUCTS[options.product]
    folder = product_folder(options.data, product=product.name)
    locations = [
        read_location(folder / name, product=product)
        for _, name in sorted(list_ids(folder).items())
    ]
    patches = [
        read_patch(acquisition, product=product)
        for location in locations
        for acquisition in location.acquisitions
    ][: options.patches]
    rows = []
    for text in CODECS:
        codec = Codec.parse(text)
        decoder = Decoder(form(product, codec).manifest())
        milliseconds: dict[str, list[float]] = {"encode": [], "decode": [], "rasterio": []}
        members: list[bytes] = []
        decoded: list[list[np.ndarray]] = []
        equal = False
        for _ in range(options.repeats):
            start = time.perf_counter()
            members = [encode(patch, product=product, codec=codec) for patch in patches]
            encoded = time.perf_counter()
            for member in members:
                decoder(member, name="member")
            ours = time.perf_counter()
            theirs = [decode_rasterio(member) for member in members]
            end = time.perf_counter()
            for name, seconds in (("encode", encoded - start), ("decode", ours - encoded),
                                  ("rasterio", end - ours)):  # fmt: skip
                milliseconds[name].append(seconds * 1000 / len(patches))
            decoded = [decode_ours(member) for member in members]
            equal = all(
                np.array_equal(a, b)
                for one, other in zip(decoded, theirs, strict=True)
                for a, b in zip(one, other, strict=True)
            )
        errors = np.mean(
            [errors_of(p, d, product=product) for p, d in zip(patches, decoded, strict=True)],
            axis=0,
        )
        times = {name: summary(values, digits=2) for name, values in milliseconds.items()}
        rows.append({
            "codec": text,
            "kilobytes": round(np.mean([len(member) for member in members]) / 1000, 1),
            "encode ms": times["encode"]["median"],
            "decode ms": times["decode"]["median"],
            "decode ms, quartiles": f"{times['decode']['low']}–{times['decode']['high']}",
            "rasterio ms": times["rasterio"]["median"],
            "equal to rasterio": "yes" if equal else "NO",
            "mean error": round(float(errors.mean()), 3),
            "least, greatest band": f"{errors.min():.3g} ({product.names[errors.argmin()]}), "
                                    f"{errors.max():.3g} ({product.names[errors.argmax()]})",
        })  # fmt: skip
    print(table(rows))
    path = write_result(
        f"codecs_{product.name}",
        question=f"What do the codecs of a shard cost, per {product.title} patch?",
        repeats=options.repeats,
        rows=rows,
    )
    print(path.name)


if __name__ == "__main__":
    main()
