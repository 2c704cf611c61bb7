"""Do memory, open files and threads of a loader stay the same from epoch to epoch?

Run: `python benchmarks/memory.py --data TREE`, TREE being Sentinel-2 L1C as published, or the
folder of one shard of 512 locations of it.

One shard of the tree's patches is repeated (`replicas.py`) until the data set is as long as asked
for, and streamed for some epochs from a folder and over HTTP (`link.py`). At the end of every epoch
the trainer's process and every worker tell their own memory (the kernel's Anonymous: no file, no
ring), their open files and threads. Of workers the largest is given. The ring of batches is shared
by all, given once, and its size follows from the batch.
"""

import argparse
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

from link import link
from replicas import SAMPLES_PER_SHARD, one_shard, replicate
from report import table, write_result

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.stream.pool import BATCHES_AHEAD
from ssl4eo_stream.stream.ring import layout

QUESTION = "Do memory, open files and threads of a loader stay the same from epoch to epoch?"


def own_megabytes(pid: int) -> float:
    """Return the memory of a process that no file is behind."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024e-6


def held(pid: int) -> dict[str, float]:
    """Return what a process holds."""
    return {
        "own MB": round(own_megabytes(pid), 1),
        "open files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": len(list(Path(f"/proc/{pid}/task").iterdir())),
    }


def epochs_of(url: str, place: str, *, options: argparse.Namespace) -> list[dict[str, object]]:
    """Return a row for every epoch."""
    rows = []
    views = MoCoViews(size=224)
    with StreamLoader(
        url, views=views, batch_size=options.batch_size, workers=options.workers
    ) as loader:
        _, slot_bytes = layout(views.shapes(loader.channels), batch_size=options.batch_size)
        ring = (options.workers * BATCHES_AHEAD + 2) * slot_bytes / 1e6
        for epoch in range(options.epochs):
            samples = sum(len(batch.keys) for batch in loader)
            trainer = held(os.getpid())
            workers = [held(pid) for pid in loader.worker_pids]
            row: dict[str, object] = {"from": place, "epoch": epoch + 1, "samples": samples}
            row |= {f"trainer: {what}": value for what, value in trainer.items()}
            row |= {f"worker: {what}": max(each[what] for each in workers) for what in trainer}
            rows.append(row | {"ring MB": round(ring)})
            print(table(rows[-1:]), flush=True)
    return rows


def main() -> None:
    """Build, stream, print and write."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument(
        "--data", type=Path, required=True, help="tree of GeoTIFFs, or one shard of it"
    )
    parser.add_argument("--codec", default="jpeg:75", help="of a tree")
    parser.add_argument("--shards", type=int, default=4, help=f"of {SAMPLES_PER_SHARD} locations")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=None, help="where about 200 MB are free")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        one = one_shard(options.data, Path(scratch), codec=options.codec)
        dest = replicate(one, Path(scratch) / "shards", shards=options.shards)
        served = link(dest, latency_seconds=0.0, bytes_per_second=1e10)
        for place, server in (("folder", nullcontext(dest.as_uri())), ("HTTP", served)):
            with server as url:
                rows += epochs_of(url, place, options=options)
    print(table(rows))
    print(write_result("memory", question=QUESTION, repeats=1, rows=rows).name)


if __name__ == "__main__":
    main()
