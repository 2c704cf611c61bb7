"""Does the first batch after a restore within an epoch come as soon as that of a fresh epoch?

Run: `python benchmarks/resume.py --data TREE`, TREE being Sentinel-2 L1C as published, or a data
set of one shard. Its shard is linked under as many numbers as the whole of SSL4EO-S12 has, so that
the arithmetic is that of the full size and the bytes are real. One rank of several is measured:
`plan` is all that happens before a worker gets its list of work, `first batch` ends when the
trainer has it. The loader and its workers are warm, but for the rows that say from cold, which
also read the index and start the workers. Every repeat goes once through all rows, in an order
of its own; ratios are to the fresh epoch of the same repeat.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicas import one_shard, replicate
from report import summary, table, write_result

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.stream.plan import Position, Topology, num_steps
from ssl4eo_stream.stream.work import passes

LOCATIONS = 251_079
"""Locations of SSL4EO-S12 (Wang et al. 2023, section III)."""
SHARES = (0.1, 0.5, 0.9)
"""Parts of an epoch done when it was left."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: a place in an epoch, and who wrote it."""

    name: str
    """What was restored."""
    on: tuple[Topology, ...]
    """Topologies that the epoch has been through, each for an equal part of what was done."""
    share: float
    """Part of the epoch's steps done, 0-1."""
    cold: bool = False
    """Whether the loader is made anew."""

    def position(self, *, samples: int, epoch: int) -> Position:
        """Return the place, as the last of the topologies has written it."""
        place = Position(epoch=epoch, intervals=((0, samples),), topology=self.on[0], steps=0)
        for topology in self.on:
            place = place.on(topology)
            done = int(self.share * samples / len(self.on)) // topology.global_batch
            steps = min(place.steps + done, num_steps(place.intervals, topology))
            place = Position(epoch=epoch, intervals=place.intervals, topology=topology, steps=steps)
        return place


def cases(ours: Topology) -> list[Case]:
    """Return all rows; the first of warm and cold is the fresh epoch that others are beside."""

    def other(world_size: int, workers: int) -> Topology:
        return Topology(world_size=world_size, workers=workers, batch_size=ours.batch_size)

    node, cluster = other(4, 8), other(64, 8)
    often = (cluster, node, other(48, 8), other(6, 4), cluster)
    rows = [Case(name="fresh epoch", on=(ours,), share=0.0)]
    for share in SHARES:
        rows += [
            Case(name=f"{share:.0%} done, same ranks", on=(ours,), share=share),
            Case(name=f"{share:.0%} done on 4 × 8 workers", on=(node,), share=share),
            Case(name=f"{share:.0%} done on 64 × 8 workers", on=(cluster,), share=share),
            Case(name=f"{share:.0%} done, 5 topologies up to 64 × 8", on=often, share=share),
        ]
    rows += [
        Case(name="fresh epoch, from cold", on=(ours,), share=0.0, cold=True),
        Case(name="50% done on 64 × 8 workers, from cold", on=(cluster,), share=0.5, cold=True),
    ]
    return rows


def first_batch(loader: StreamLoader, state: Mapping[str, Any]) -> float:
    """Return the seconds from a state to the first batch."""
    start = time.perf_counter()
    loader.load_state_dict(state)
    batches = iter(loader)
    next(batches)
    seconds = time.perf_counter() - start
    del batches  # what the workers have in hand is taken back before the next case
    return seconds


def plan_seconds(loader: StreamLoader, state: Mapping[str, Any]) -> float:
    """Return the seconds from a state to the workers' lists of work."""
    start = time.perf_counter()
    loader.load_state_dict(state)
    first = next(passes(loader._position, loader._catalog, seed=loader.seed, rank=loader._rank))
    for worker in range(loader._topology.streams):
        first.work(worker)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Time to the first batch after a restore.")
    parser.add_argument("--data", type=Path, required=True, help="tree, or shards of one number")
    parser.add_argument("--codec", default="jpeg:75")
    parser.add_argument("--world-size", type=int, default=8, help="ranks, of which one is run")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--scratch", type=Path, default=None, help="where about 200 MB are free")
    options = parser.parse_args()
    ours = Topology(
        world_size=options.world_size, workers=options.workers, batch_size=options.batch_size
    )
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        one = one_shard(options.data, Path(scratch), codec=options.codec)
        url = str(replicate(one, Path(scratch) / "all", shards=round(LOCATIONS / 512)))

        def make() -> StreamLoader:
            return StreamLoader(
                url, views=MoCoViews(size=224), batch_size=ours.batch_size, rank=0,
                world_size=ours.world_size, workers=ours.workers,
            )  # fmt: skip

        with make() as loader:
            everything = loader.state_dict()["intervals"]
            (samples,) = (stop for _, stop in everything)
            rows = cases(ours)
            seconds: dict[str, list[float]] = {case.name: [] for case in rows}
            plans: dict[str, list[float]] = {case.name: [] for case in rows}
            first_batch(loader, loader.state_dict())  # warms workers and page cache
            for repeat in range(options.repeats):
                for case in random.Random(repeat).sample(rows, len(rows)):
                    place = case.position(samples=samples, epoch=repeat)
                    state = loader.state_dict() | place.to_dict()
                    plans[case.name].append(plan_seconds(loader, state))
                    if case.cold:
                        start = time.perf_counter()
                        with make() as anew:
                            first_batch(anew, state)
                            seconds[case.name].append(time.perf_counter() - start)
                    else:
                        seconds[case.name].append(first_batch(loader, state))
    fresh = {case.cold: case.name for case in rows if case.share == 0}
    result = []
    for case in rows:
        beside = seconds[fresh[case.cold]]
        ratios = [ours / theirs for ours, theirs in zip(seconds[case.name], beside, strict=True)]
        ratio, batch = summary(ratios, digits=2), summary([1e3 * s for s in seconds[case.name]])
        result.append({
            "restored": case.name,
            "plan ms": summary([1e3 * s for s in plans[case.name]])["median"],
            "first batch ms": batch["median"],
            "ms low": batch["low"],
            "ms high": batch["high"],
            "ratio to fresh": ratio["median"],
            "ratio low": ratio["low"],
            "ratio high": ratio["high"],
        })  # fmt: skip
    print(table(result))
    path = write_result(
        "resume",
        question="Does the first batch after a restore within an epoch come as soon as that of a "
        f"fresh epoch? One of {ours.world_size} ranks, {ours.workers} workers, batches of "
        f"{ours.batch_size}, {samples:,} locations",
        repeats=options.repeats,
        rows=result,
    )
    print(path.name)


if __name__ == "__main__":
    main()
