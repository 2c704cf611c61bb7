"""Processes, threads of one process, or a mix: what fills batches fastest on these cores?

Run: `python benchmarks/workers.py --data SHARDS`, SHARDS being a local folder of shards.

A sample is a location seen in two MoCo views of 224 × 224. Processes: the loader as it is. Threads:
readers of one process, each on a thread and a stream of its own, as a threaded loader would be; the
codec and OpenCV let go of the interpreter's lock, the Python between them does not. All contenders
run one after the other in every repeat, and ratios are taken within a repeat.
"""

import argparse
import threading
import time
from pathlib import Path

import cv2
import numpy as np
from report import summary, table, write_result

from ssl4eo_stream import Reading, Selection, StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.catalog import open_catalog
from ssl4eo_stream.stream.plan import Topology, order, stream
from ssl4eo_stream.stream.reader import Reader
from ssl4eo_stream.stream.setup import Setup
from ssl4eo_stream.stream.work import Work

BATCH = 16
VIEWS = MoCoViews(size=224)


class Threads:
    """Readers on threads of this process."""

    def __init__(self, url: str, threads: int) -> None:
        catalog = open_catalog([Store.open(url)], [url], Selection())
        setup = Setup(sources=catalog.sources, storage_options=None, views=VIEWS,
                      batch_size=BATCH, sensor_drop=0.0, reading=Reading())  # fmt: skip
        self.catalog = catalog
        self.readers = [Reader(setup) for _ in range(threads)]
        self.topology = Topology(world_size=1, workers=threads, batch_size=BATCH)
        shapes = VIEWS.shapes(13)
        self.out = [
            [np.empty((BATCH, *shape), np.uint8) for shape in shapes] for _ in range(threads)
        ]

    def epoch(self, number: int) -> int:
        """Read an epoch; returns its samples."""
        canonical = order(self.catalog.shards, seed=0, epoch=number)
        works = [
            Work.make(
                self.catalog, canonical,
                stream(((0, len(self.catalog)),), self.topology, rank=0, worker=worker),
                seed=0, epoch=number,
            )
            for worker in range(len(self.readers))
        ]  # fmt: skip

        def run(worker: int) -> None:
            self.readers[worker].add(works[worker])
            for _ in range(len(works[worker]) // BATCH):
                self.readers[worker].fill(self.out[worker])
            self.readers[worker].close()

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(len(work) for work in works)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Samples/s of processes, threads and a mix.")
    parser.add_argument("--data", required=True, help="local folder of shards")
    parser.add_argument("--cores", type=int, default=2, help="processes or threads to use")
    parser.add_argument("--epochs", type=int, default=4, help="epochs per repeat")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    url = str(Path(options.data))

    def loader(workers: int) -> StreamLoader:
        return StreamLoader(url, views=VIEWS, batch_size=BATCH, workers=workers)

    loaders = {"1 process": loader(1), f"{options.cores} processes": loader(options.cores)}
    threaded = {
        "1 thread": Threads(url, 1),
        f"{options.cores} threads of one process": Threads(url, options.cores),
        f"{2 * options.cores} threads of one process": Threads(url, 2 * options.cores),
    }
    rates: dict[str, list[float]] = {name: [] for name in (*loaders, *threaded)}
    for repeat in range(options.repeats + 1):  # the first warms up
        for name, each in loaders.items():
            start, samples = time.perf_counter(), 0
            for _ in range(options.epochs):
                samples += sum(len(batch.keys) for batch in each)
            if repeat:
                rates[name].append(samples / (time.perf_counter() - start))
        for name, each in threaded.items():
            start, samples = time.perf_counter(), 0
            for epoch in range(options.epochs):
                samples += each.epoch(epoch)
            if repeat:
                rates[name].append(samples / (time.perf_counter() - start))
    rows = []
    for name, values in rates.items():
        rate = summary(values)
        row = {"readers": name, "samples/s": rate["median"],
               "quartiles": f"{rate['low']}–{rate['high']}"}  # fmt: skip
        for reference in ("1 process", "1 thread"):
            ratio = summary([a / b for a, b in zip(values, rates[reference], strict=True)],
                            digits=2)  # fmt: skip
            row[f"ratio to {reference}"] = ratio["median"]
        rows.append(row)
    for each in loaders.values():
        each.close()
    print(table(rows))
    path = write_result(
        "workers",
        question="Processes, threads of one process, or a mix: what fills batches fastest?",
        repeats=options.repeats,
        rows=rows,
    )
    print(path.name)


if __name__ == "__main__":
    main()
