"""How many samples/s do these cores load, beside other ways to load the same patches?

Run: `taskset -c 0 python benchmarks/loader.py --data TREE`, then with `taskset -c 0,1`; TREE being
Sentinel-2 L1C as published. What is not installed of the others is skipped, and said so. Since they
pin versions of what we use, they want an environment of their own: `pip install .[benchmarks]`, and
`pip install --no-deps opencv-torchvision-transforms-yuzhiyang`, which would bring a second cv2.

A sample is a location of four dates, seen in two MoCo views of 224 × 224, all 13 bands, or in one,
cropped and mirrored, as MAE trains on. On one core everybody works in this process; on two, in two
worker processes, and StreamLoader also in one. Everybody loads the same patches from the page
cache, JPEGs at the same quality. `our decoder and views`: their reading, shuffling, collating and
processes around our decoder and views. `as documented`: formats, decoders and transforms as their
own guides show them, in float32 where those end in it. `bound`: our decoder and views on members
that lie in memory, into one batch used again; no reads, no CRC, no order, no new batches.

Every repeat measures a slice of everybody, in an order that moves on by one from repeat to repeat,
each from a new start. Ratios are taken within a repeat, by the clock on the wall and, where all is
done in this process, by its processor time, which a busy machine disturbs less.
"""

import argparse
import gc
import importlib
import os
import sys
import tempfile
from pathlib import Path

import cv2
import torch
from pipelines import stream
from pipelines.contender import Contender, Rate, rate_of
from pipelines.material import Material
from report import summary, table, write_result

QUESTION = "How many samples/s do these cores load, beside other ways to load the same patches?"
OTHERS = ("published", "webdataset_tars", "torchgeo_tree", "litdata_chunks", "mosaic_shards")
PROMISED = {
    ("published", 2): 5.0,
    ("published", 1): 3.0,
    ("bound", 2): 0.92,
    ("our decoder and views", 2): 1.0,
    ("as documented", 2): 3.0,
}
"""(kind, views) -> how many times as fast StreamLoader has to be at least, at the first codec."""
TWO_WORKERS = 1.9
"""Promise: two workers on two cores, as many times as fast as one."""

Key = tuple[int, int]
"""Place of a contender in the list, workers."""


def everybody(material: Material, *, codecs: tuple[str, ...]) -> list[Contender]:
    """Return all that can run here."""
    found = stream.contenders(material, codecs=codecs)
    for name in OTHERS:
        try:
            module = importlib.import_module(f"pipelines.{name}")
        except ImportError as error:
            print(f"skipped {name}: {error}")
            continue
        found.extend(module.contenders(material))
    return found


def entries(contenders: list[Contender], *, cores: int) -> list[Key]:
    """Return who is measured with how many workers."""
    if cores == 1:
        return [(i, 0) for i in range(len(contenders))]
    return [
        (i, workers)
        for i, each in enumerate(contenders)
        if each.kind != "bound"
        for workers in ((1, cores) if each.kind == "ours" else (cores,))
    ]


def measure(contender: Contender, *, workers: int, seconds: float) -> Rate:
    """Return how fast one slice was."""
    batches = contender.start(workers)
    try:
        return rate_of(batches, seconds=seconds, workers=workers)
    finally:
        batches.close()
        del batches
        gc.collect()  # workers end here, rather than as children of those who come next


def row_of(
    contender: Contender, rates: list[Rate], ours: list[Rate], *, workers: int, first: bool
) -> dict[str, object]:
    """Return a line of the table."""
    rate = summary([each.per_second for each in rates])
    row: dict[str, object] = {
        "loader": contender.name, "what": contender.kind, "views": contender.views,
        "workers": workers, "samples/s": rate["median"],
        "quartiles": f"{rate['low']}–{rate['high']}",
    }  # fmt: skip
    if first:
        return row
    pairs = list(zip(ours, rates, strict=True))
    ratio = summary([us.per_second / them.per_second for us, them in pairs], digits=2)
    row["StreamLoader is × as fast"] = ratio["median"]
    row["quartiles of that"] = f"{ratio['low']}–{ratio['high']}"
    if workers == 0:
        used = summary([us.per_cpu_second / them.per_cpu_second for us, them in pairs], digits=2)
        row["the same by CPU time"] = used["median"]
        row["quartiles by CPU time"] = f"{used['low']}–{used['high']}"
    promised = PROMISED.get((contender.kind, contender.views))
    if contender.kind == "ours" and workers == 1:
        promised = TWO_WORKERS
    if promised is not None and (contender.kind != "ours" or contender.name == OURS):
        row["promised"] = promised
        row["kept"] = "yes" if ratio["median"] >= promised else "no"
    return row


OURS = "StreamLoader, jpeg:75"
"""Who is compared with everybody."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Samples/s of these cores, ours and others.")
    parser.add_argument("--data", type=Path, required=True, help="tree of GeoTIFFs")
    parser.add_argument("--locations", type=int, default=480, help="grown from the tree")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a slice")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="those whose name has this, and ours")
    parser.add_argument("--scratch", type=Path, help="folder to keep, and to take up, what is made")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    cv2.setNumThreads(1)
    torch.set_num_threads(cores)
    with tempfile.TemporaryDirectory() as scratch:
        root = options.scratch or Path(scratch)
        material = Material(source=options.data, root=root, locations=options.locations)
        contenders = [
            each
            for each in everybody(material, codecs=("jpeg:75", "jpeg:90", "zstd"))
            if options.only in each.name or each.name == OURS
        ]
        order = entries(contenders, cores=cores)
        rates: dict[Key, list[Rate]] = {key: [] for key in order}
        details: dict[Key, list[dict[str, float]]] = {key: [] for key in order}
        for repeat in range(options.repeats):
            turn = repeat % len(order)
            for key in order[turn:] + order[:turn]:
                place, workers = key
                rate = measure(contenders[place], workers=workers, seconds=options.seconds)
                rates[key].append(rate)
                name = f"{contenders[place].name}, {contenders[place].views} views"
                progress = f"{repeat + 1}/{options.repeats} {rate.per_second:7.1f}/s"
                print(f"{progress} {rate.per_cpu_second:7.1f}/CPU s  {workers} workers  {name}",
                      file=sys.stderr, flush=True)  # fmt: skip
                details[key].append(dict(contenders[place].details()))
    ours = {
        contenders[i].views: rates[i, workers]
        for i, workers in order
        if contenders[i].name == OURS and workers == (0 if cores == 1 else cores)
    }
    rows = []
    for place, workers in order:
        contender = contenders[place]
        values = rates[place, workers]
        reference = ours[contender.views]
        row = row_of(contender, values, reference, workers=workers, first=values is reference)
        row |= {
            name: round(summary([each[name] for each in details[place, workers]])["median"], 1)
            for name in details[place, workers][0]
        }
        rows.append(row)
    print(table(rows))
    print(write_result("loader", question=QUESTION, repeats=options.repeats, rows=rows).name)


if __name__ == "__main__":
    main()
