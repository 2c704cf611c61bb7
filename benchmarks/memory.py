"""How much memory does a loader worker need over an epoch of many shards?

Run: `python benchmarks/memory.py --data TREE`, TREE being Sentinel-2 L1C as published. The tree's
locations are linked again and again under new ids, four dates each, until they fill the shards
asked for; that data set is built in a scratch folder, streamed for one epoch, and removed. The
resident set of every worker is read twice a second; the peak is the kernel's own (VmHWM), so none
is missed.
"""

import argparse
import statistics
import tempfile
import threading
from itertools import cycle, islice
from pathlib import Path

from report import table, write_result

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.shard.build import build

DATES = 4


def linked_tree(tree: Path, root: Path, *, locations: int) -> Path:
    """Fill a folder with links to a tree's acquisitions, four dates for each location."""
    acquisitions = cycle(sorted(path.parent for path in tree.glob("*/*/B1.tif")))
    for location in range(locations):
        folder = root / "s2c" / f"{location:07d}"
        folder.mkdir(parents=True)
        for date, source in enumerate(islice(acquisitions, DATES)):
            (folder / f"2020{3 * date + 1:02d}01_T31TFJ").symlink_to(source.resolve())
    return root


def resident_megabytes(pid: int, field: str) -> float:
    """Return a process's VmRSS (now) or VmHWM (peak)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def main() -> None:
    """Build, stream, print and write."""
    parser = argparse.ArgumentParser(description="Resident set of loader workers over an epoch.")
    parser.add_argument("--data", type=Path, required=True, help="tree of GeoTIFFs")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--samples-per-shard", type=int, default=512)
    parser.add_argument("--codec", default="jpeg:75")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=None, help="where about 2 GB are free")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        source, dest = Path(scratch) / "tree", Path(scratch) / "shards"
        locations = options.shards * options.samples_per_shard
        linked_tree(options.data, source, locations=locations)
        build(source, dest, product="s2c", codec=options.codec,
              samples_per_shard=options.samples_per_shard, workers=2)  # fmt: skip
        curve: list[float] = []
        done = threading.Event()
        with StreamLoader(
            str(dest), views=MoCoViews(size=224), batch_size=64, workers=options.workers
        ) as loader:

            def watch() -> None:
                while not done.wait(0.5):
                    curve.extend(resident_megabytes(pid, "VmRSS") for pid in loader.worker_pids)

            watcher = threading.Thread(target=watch)
            watcher.start()
            try:
                samples = sum(len(batch.keys) for batch in loader)
            finally:
                done.set()
                watcher.join()
            peaks = [resident_megabytes(pid, "VmHWM") for pid in loader.worker_pids]
            stats = loader.stats()
    row = {
        "shards": options.shards,
        "locations": samples,
        "dates": DATES,
        "codec": options.codec,
        "workers": options.workers,
        "peak MB": round(max(peaks)),
        "median MB": round(statistics.median(curve)),
        "readings": len(curve),
        "samples/s": round(stats["samples_per_second"], 1),
    }
    print(table([row]))
    path = write_result(
        "memory",
        question="How much memory does a loader worker need over an epoch of many shards?",
        repeats=1,
        rows=[row],
    )
    print(path.name)


if __name__ == "__main__":
    main()
