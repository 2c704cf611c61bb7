"""How many samples/s does one core load, beside the published LMDB pipeline?

Run: `taskset -c 1 python benchmarks/loader.py --data TREE`, TREE being Sentinel-2 L1C as published.

A sample is a location seen in two MoCo views of 224 × 224, all 13 bands. Ours: shards of the tree
streamed in this process (fetch, CRC, decode, views) into uint8 batches. Published: an LMDB of the
same pixels (see `lmdb_baseline.py`), which decodes nothing, in a torch DataLoader of this process
into float32 batches; once in float64 arithmetic as published, once in float32 to its favour. All
are read from the page cache, one after the other in every repeat, so that a slow minute of the
machine falls on all; ratios are taken within a repeat. Shares are parts of our working time.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from lmdb_baseline import PublishedDataset, write_lmdb
from report import summary, table, write_result

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.bands import S2C
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.shard.source import list_ids, product_folder, read_location, read_patch

BATCH = 16
STAGES = ("fetch", "decode", "resize", "photometric", "blur", "other")


def planes_of(tree: Path) -> list[list[list]]:
    """Return every location's dates, each as its bands in bytes at native size."""
    folder = product_folder(tree, product="s2c")
    locations = [
        read_location(folder / name, product=S2C) for _, name in sorted(list_ids(folder).items())
    ]
    return [
        [
            [
                to_bytes(values, band=band)
                for values, band in zip(patch.bands, S2C.bands, strict=True)
            ]
            for patch in (read_patch(each, product=S2C) for each in location.acquisitions)
        ]
        for location in locations
    ]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Samples/s of one core, ours and published.")
    parser.add_argument("--data", type=Path, required=True, help="tree of GeoTIFFs")
    parser.add_argument("--codecs", nargs="+", default=["jpeg:75", "jpeg:90", "zstd"])
    parser.add_argument("--epochs", type=int, default=3, help="epochs per repeat")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        locations = planes_of(options.data)
        count = len(locations)
        baselines = {}
        for name, number in (("published", np.float64), ("published, in float32", np.float32)):
            database = Path(scratch) / name  # LMDB opens a file once per process
            write_lmdb(database, locations)
            dataset = PublishedDataset(database, length=count, seed=0, number=number)
            baselines[name] = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True)
        loaders = {}
        for codec in options.codecs:
            dest = Path(scratch) / codec.replace(":", "-")
            build(options.data, dest, product="s2c", codec=codec, workers=0)
            loaders[codec] = StreamLoader(str(dest), views=MoCoViews(size=224), batch_size=BATCH)
        rates: dict[str, list[float]] = {name: [] for name in (*baselines, *loaders)}
        shares: dict[str, dict[str, list[float]]] = {
            codec: {stage: [] for stage in STAGES} for codec in loaders
        }
        megabytes: dict[str, list[float]] = {codec: [] for codec in loaders}
        sample_bytes: dict[str, float] = {}
        for repeat in range(options.repeats + 1):  # the first warms up
            for name, baseline in baselines.items():
                start = time.perf_counter()
                for _ in baseline:
                    pass
                rate = count / (time.perf_counter() - start)
                if repeat:
                    rates[name].append(rate)
            for codec, loader in loaders.items():
                loader.stats()
                for _ in range(options.epochs):
                    for _ in loader:
                        pass
                stats = loader.stats()
                if repeat:
                    rates[codec].append(stats["samples_per_second"])
                    megabytes[codec].append(stats["megabytes_per_second"])
                    sample_bytes[codec] = stats["bytes_per_sample"]
                    for stage in STAGES:
                        shares[codec][stage].append(stats[f"share_{stage}"])
        for baseline in baselines.values():
            baseline.dataset.close()
    rows = []
    for name, values in rates.items():
        rate = summary(values)
        row = {"loader": name, "samples/s": rate["median"],
               "quartiles": f"{rate['low']}–{rate['high']}"}  # fmt: skip
        if name in loaders:
            for baseline in baselines:
                pairs = zip(values, rates[baseline], strict=True)
                ratio = summary([ours / theirs for ours, theirs in pairs], digits=2)
                row[f"ratio to {baseline}"] = ratio["median"]
                row[f"quartiles of that to {baseline}"] = f"{ratio['low']}–{ratio['high']}"
            row["MB/s"] = summary(megabytes[name])["median"]
            row["kB/sample"] = round(sample_bytes[name] / 1000, 1)
            for stage in STAGES:
                row[f"{stage} %"] = round(100 * summary(shares[name][stage], digits=4)["median"])
        rows.append(row)
    print(table(rows))
    path = write_result(
        "loader",
        question="How many samples/s does one core load, beside the published LMDB pipeline?",
        repeats=options.repeats,
        rows=rows,
    )
    print(path.name)


if __name__ == "__main__":
    main()
