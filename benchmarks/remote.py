"""How much longer is an epoch over a link of 20 ms and 200 MB/s than from memory?

Run: `python benchmarks/remote.py --data TREE`, TREE being Sentinel-2 L1C as published,
or the folder of one shard of 512 locations of it.

One shard of the tree's patches, four dates each, is built in a scratch folder and repeated until
the data set is as long as asked for. The same StreamLoader then goes over the same epoch from the
page cache (file://) and over a link made on loopback (`link.py`), in turns, so that a slow minute
of the machine falls on both; ratios are taken within a turn. The trainer takes every batch at once:
the readers are what everybody waits for. `fetch %` is the part of the readers' working time in
which they stood still for bytes. An epoch of the whole data set is longer, and its first block,
which nothing can be read ahead of, weighs less.
"""

import argparse
import tempfile
import time
from pathlib import Path

from link import link
from replicas import SAMPLES_PER_SHARD, one_shard, replicate
from report import summary, table, write_result

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews

QUESTION = "How much longer is an epoch over a link of 20 ms and 200 MB/s than from memory?"


def epoch(loader: StreamLoader) -> tuple[float, dict[str, float]]:
    """Go over epoch 0 and return its seconds and statistics; workers are already running."""
    loader.epoch = 0
    loader.stats()
    start = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - start, loader.stats()


def main() -> None:
    """Build, measure, print and write."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument(
        "--data", type=Path, required=True, help="tree of GeoTIFFs, or one shard of it"
    )
    parser.add_argument("--codec", default="jpeg:75", help="of a tree")
    parser.add_argument("--shards", type=int, default=4, help="of 512 locations each")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--latency-milliseconds", type=float, default=20.0)
    parser.add_argument("--megabytes-per-second", type=float, default=200.0)
    parser.add_argument("--scratch", type=Path, default=None, help="where about 200 MB are free")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        one = one_shard(options.data, Path(scratch), codec=options.codec)
        dest = replicate(one, Path(scratch) / "shards", shards=options.shards)
        with link(
            dest,
            latency_seconds=options.latency_milliseconds / 1000,
            bytes_per_second=options.megabytes_per_second * 1e6,
        ) as url:
            for workers in options.workers:
                rows.append(compare(dest.as_uri(), url, workers=workers, options=options))
                print(table(rows[-1:]), flush=True)
    print(table(rows))
    path = write_result("remote", question=QUESTION, repeats=options.repeats, rows=rows)
    print(path.name)


def compare(
    local: str, remote: str, *, workers: int, options: argparse.Namespace
) -> dict[str, object]:
    """Measure epochs from both places in turns, and return the row of the table."""
    loaders = {
        place: StreamLoader(
            url, views=MoCoViews(size=224), batch_size=options.batch_size, workers=workers
        )
        for place, url in (("memory", local), ("link", remote))
    }
    seconds: dict[str, list[float]] = {place: [] for place in loaders}
    fetching: dict[str, list[float]] = {place: [] for place in loaders}
    rates: dict[str, list[float]] = {place: [] for place in loaders}
    megabytes: list[float] = []
    for repeat in range(options.repeats + 1):  # the first warms up
        places = list(loaders) if repeat % 2 else list(reversed(loaders))
        for place in places:
            took, stats = epoch(loaders[place])
            if repeat:
                seconds[place].append(took)
                fetching[place].append(100 * stats["share_fetch"])
                rates[place].append(stats["samples_per_second"])
                megabytes.append(stats["megabytes_per_second"])
    for loader in loaders.values():
        loader.close()
    pairs = zip(seconds["link"], seconds["memory"], strict=True)
    ratio = summary([link_time / memory_time for link_time, memory_time in pairs], digits=3)
    return {
        "workers": workers,
        "locations": options.shards * SAMPLES_PER_SHARD,
        "codec": loaders["memory"].manifests[0].codec,
        "epoch over the link / from memory": ratio["median"],
        "quartiles": f"{ratio['low']}–{ratio['high']}",
        "samples/s, memory": summary(rates["memory"])["median"],
        "samples/s, link": summary(rates["link"])["median"],
        "fetch %, memory": summary(fetching["memory"])["median"],
        "fetch %, link": summary(fetching["link"])["median"],
        "MB/s": summary(megabytes)["median"],
    }


if __name__ == "__main__":
    main()
