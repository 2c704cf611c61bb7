"""Which sizes of chunk, block and gap mix well, read little in vain, and start fast?

Run: `python benchmarks/order.py --data TREE`, TREE being Sentinel-2 L1C as published, or the folder
of one shard of 512 locations of it.

Calculated for an index of full size, 490 shards of 512 locations with four dates, whose members
have the sizes of real ones: from how many chunks a batch's 64 locations come, and how often the
same pairs meet again in the next epoch, both against a perfect shuffle; requests and bytes, if two
views draw a date each (MoCo's rule: two of four, with replacement) and gaps up to a size are read
rather than asking twice; and the bytes that a worker holds. Measured over links of 20 ms
(`link.py`) on repeats of one real shard, in this process, in turns: the time to the first batch;
and through the blocks behind it samples/s, the part of the time that went by without bytes, and
the processor time of a sample, which others on the machine disturb least. 25 MB/s is what each of
50 workers has of a node's 10 Gbit/s.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64
from link import link
from replicas import SAMPLES_PER_SHARD, one_shard, replicate
from report import summary, table, write_result

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.shard.manifest import INDEX, Index
from ssl4eo_stream.store import coalesce
from ssl4eo_stream.stream import fetch as fetch_module
from ssl4eo_stream.stream import work as work_module
from ssl4eo_stream.stream.fetch import GAP_BYTES, REQUEST_BYTES
from ssl4eo_stream.stream.mixing import distinct_groups, mean_distance, meet_again, rank_batches
from ssl4eo_stream.stream.plan import BLOCK_CHUNKS, CHUNK_LOCATIONS, Topology, order
from ssl4eo_stream.stream.setup import Reading

SHARDS, DATES = 490, 4
CHUNKS, BLOCKS = (8, 16, 32, 64, 128), (4, 8, 16, 32, 64, 128)
GAPS = (0, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20)
TOPOLOGY = Topology(world_size=4, workers=8, batch_size=64)
HEADER_BYTES, RECORD_BYTES = 512, 512
"""Of a tar member; its bytes fill whole records."""
METADATA_BYTES = HEADER_BYTES + 1024
"""A location's JSON in its shard."""
QUESTION = "Which sizes of chunk, block and gap mix well, read little in vain, and start fast?"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How an epoch is read; the defaults are today's."""

    chunk: int = CHUNK_LOCATIONS
    """Locations of a chunk."""
    block: int = BLOCK_CHUNKS
    """Chunks of a block."""
    gap_bytes: int = GAP_BYTES
    """Unwanted bytes that are read rather than asking twice."""

    def columns(self) -> dict[str, object]:
        """Return the setting as columns of a table."""
        return {"chunk": self.chunk, "block": self.block, "gap KiB": self.gap_bytes >> 10}


MEASURED = (
    *(Setting(chunk=8, block=block) for block in (64, 128)),
    *(Setting(chunk=16, block=block) for block in (16, 32, 64)),
    *(Setting(chunk=32, block=block) for block in (8, 32)),
    Setting(chunk=64, block=16),
    *(Setting(gap_bytes=gap_bytes) for gap_bytes in GAPS),
    *(Setting(chunk=8, block=64, gap_bytes=gap_bytes) for gap_bytes in GAPS[1:4]),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FullIndex:
    """Where n locations' members would lie at full size."""

    shards: Int32[np.ndarray, " n"]
    """Shard of each location."""
    starts: Int64[np.ndarray, "n dates"]
    """First byte of each member in its shard."""
    lengths: Int64[np.ndarray, "n dates"]
    """Bytes of each member."""
    wanted: Bool[np.ndarray, "n dates"]
    """Members that a view shows in this epoch."""

    @classmethod
    def like(cls, real: Index) -> "FullIndex":
        """Return an index of full size whose members have real ones' sizes, at random."""
        rng = np.random.default_rng(0)
        n = SHARDS * SAMPLES_PER_SHARD
        lengths = rng.choice(real.lengths, (n, DATES))
        padded = HEADER_BYTES + -(-lengths // RECORD_BYTES) * RECORD_BYTES
        sizes = METADATA_BYTES + padded.sum(axis=1)
        ends = sizes.reshape(SHARDS, -1).cumsum(axis=1).ravel()
        member_ends = (ends - sizes)[:, None] + METADATA_BYTES + padded.cumsum(axis=1)
        shown = rng.integers(DATES, size=(n, 2))
        return cls(
            shards=np.repeat(np.arange(SHARDS, dtype=np.int32), SAMPLES_PER_SHARD),
            starts=member_ends - padded + HEADER_BYTES,
            lengths=lengths,
            wanted=(shown[..., None] == np.arange(DATES)).any(axis=1),
        )

    def requests(self, chunk: int, *, gap_bytes: int) -> Int64[np.ndarray, " r"]:
        """Return the bytes of every request of an epoch."""
        sizes = []
        for first in range(0, len(self.shards), chunk):
            wanted = self.wanted[first : first + chunk]
            starts = self.starts[first : first + chunk][wanted]
            ends = starts + self.lengths[first : first + chunk][wanted]
            spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
            merged = coalesce(spans, gap_bytes=gap_bytes, limit_bytes=REQUEST_BYTES)
            sizes += [end - start for start, end in merged]
        return np.array(sizes)


def mixing_row(full: FullIndex, setting: Setting) -> dict[str, object]:
    """Return how well these sizes mix."""
    locations = len(full.shards)
    orders = [
        order(
            full.shards,
            seed=0,
            epoch=epoch,
            chunk_locations=setting.chunk,
            block_chunks=setting.block,
        )
        for epoch in (0, 1)
    ]
    first, second = (
        rank_batches(each, TOPOLOGY).reshape(-1, TOPOLOGY.batch_size) for each in orders
    )
    chunks = orders[0].chunks[np.argsort(orders[0].rows)]
    return {
        "distance": round(mean_distance(first, locations=locations).ratio, 3),
        "distinct chunks in a batch": round(distinct_groups(first, groups=chunks).measured, 1),
        "of perfect": round(distinct_groups(first, groups=chunks).ratio, 3),
        "pairs meet again, times perfect": round(
            meet_again(first, second, locations=locations).ratio, 1
        ),
    }


def calculated(full: FullIndex) -> list[dict[str, object]]:
    """Return a row for every chunk and block, and one for every gap at two of them."""
    reading, rows = Reading(), []
    wanted_bytes = int(full.lengths[full.wanted].sum())
    per_location = wanted_bytes / len(full.shards)
    settings = [Setting(chunk=chunk, block=block) for chunk in CHUNKS for block in BLOCKS]
    settings += [Setting(gap_bytes=gap_bytes) for gap_bytes in GAPS]
    settings += [Setting(chunk=8, block=64, gap_bytes=gap_bytes) for gap_bytes in GAPS]
    for setting in settings:
        requests = full.requests(setting.chunk, gap_bytes=setting.gap_bytes)
        block_bytes = setting.chunk * setting.block * per_location
        held = max(block_bytes, reading.prefetch_bytes) + reading.connections * requests.mean()
        rows.append(
            setting.columns()
            | mixing_row(full, setting)
            | {
                "requests an epoch": len(requests),
                "MB a request": round(requests.mean() / 1e6, 2),
                "read / wanted": round(requests.sum() / wanted_bytes, 3),
                "block MB": round(block_bytes / 1e6, 1),
                "worker holds MB, at most": round(held / 1e6),
            }
        )
    return rows


@contextmanager
def ordered_by(setting: Setting) -> Iterator[None]:
    """Let loaders without workers read as the setting says."""
    work_module.order = partial(
        order, chunk_locations=setting.chunk, block_chunks=setting.block
    )  # fmt: skip
    fetch_module.GAP_BYTES = setting.gap_bytes
    try:
        yield
    finally:
        work_module.order = order
        fetch_module.GAP_BYTES = GAP_BYTES


def measured(
    url: str, settings: Sequence[Setting], *, locations: int, repeats: int
) -> list[dict[str, object]]:
    """Return a row of first-batch time and throughput for every setting, beside today's."""
    first: dict[Setting, list[float]] = {each: [] for each in settings}
    rates: dict[Setting, list[float]] = {each: [] for each in settings}
    fetching: dict[Setting, list[float]] = {each: [] for each in settings}
    cpu: dict[Setting, list[float]] = {each: [] for each in settings}
    with StreamLoader(url, views=MoCoViews(size=224), batch_size=64) as loader:
        for repeat in range(repeats + 1):  # the first warms up
            for setting in settings:
                with ordered_by(setting):
                    loader.epoch = repeat
                    start = time.perf_counter()
                    batches = iter(loader)
                    next(batches)
                    loader.stats()
                    began, cpu_began = time.perf_counter(), time.process_time()
                    rest = sum(len(batch.keys) for batch in islice(batches, locations // 64))
                    took, cpu_took = time.perf_counter() - began, time.process_time() - cpu_began
                    batches.close()  # type: ignore[attr-defined]
                if repeat:
                    first[setting].append(1000 * (began - start))
                    rates[setting].append(rest / took)
                    fetching[setting].append(100 * loader.stats()["share_fetch"])
                    cpu[setting].append(1000 * cpu_took / rest)
    rows = []
    for setting in settings:
        pairs = zip(rates[setting], rates[Setting()], strict=True)
        wait, rate = summary(first[setting]), summary(rates[setting])
        ratio = summary([ours / today for ours, today in pairs], digits=3)
        rows.append(
            setting.columns()
            | {
                "first batch ms": round(wait["median"]),
                "quartiles, ms": f"{wait['low']:.0f}–{wait['high']:.0f}",
                "samples/s": rate["median"],
                "samples/s beside today's": ratio["median"],
                "quartiles of that": f"{ratio['low']}–{ratio['high']}",
                "fetch %": summary(fetching[setting])["median"],
                "CPU ms a sample": summary(cpu[setting], digits=2)["median"],
            }
        )
    return rows


def main() -> None:
    """Calculate, measure, print and write."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--data", type=Path, required=True, help="tree, or one shard of it")
    parser.add_argument("--codec", default="jpeg:75", help="of a tree")
    parser.add_argument("--locations", type=int, default=1024, help="to time behind the first 64")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--links", type=float, nargs="*", default=[200, 25], metavar="MB/S",
                        help="bandwidths to measure at; none only calculates")  # fmt: skip
    parser.add_argument("--scratch", type=Path, default=None, help="where about 200 MB are free")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        one = one_shard(options.data, Path(scratch), codec=options.codec)
        real = Index.from_parquet((one / INDEX).read_bytes(), url=str(one / INDEX))
        rows = calculated(FullIndex.like(real))
        print(table(rows), flush=True)
        most = max(each.chunk * each.block for each in MEASURED) + options.locations + 64
        dest = replicate(one, Path(scratch) / "shards", shards=-(-most // SAMPLES_PER_SHARD))
        for megabytes in options.links:
            with link(dest, bytes_per_second=1e6 * megabytes) as url:
                speeds = measured(
                    url, MEASURED, locations=options.locations, repeats=options.repeats
                )
            speeds = [{**row, "link MB/s": megabytes} for row in speeds]
            print(table(speeds), flush=True)
            rows += speeds
    path = write_result("order", question=QUESTION,
                        repeats=options.repeats if options.links else 1, rows=rows)  # fmt: skip
    print(path.name)


if __name__ == "__main__":
    main()
