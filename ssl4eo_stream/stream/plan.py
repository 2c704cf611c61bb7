"""Who reads what, in which order: pure arithmetic, no processes, no reads.

    order(seed, epoch, shards)        one canonical order P of the epoch's samples
    intervals of P  --split-->        a stream of whole batches for every (rank, worker)
    (intervals, topology, steps)      where an epoch stands: what `remaining` computes the rest from

P does not know how many ranks or workers read it. Every rank takes a contiguous slice of whole
batches of the intervals that are left, and its workers split that slice in turn: equal steps on
every rank by construction, every location once, and less than one global batch left over.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64

CHUNK_LOCATIONS = 32
"""Consecutive locations of one shard that are read together (about 11 MB of four dates at q90)."""
BLOCK_CHUNKS = 16
"""Chunks whose locations are mixed; two blocks bound a worker's memory."""

Interval = tuple[int, int]
"""Positions [start, stop) of an epoch's order."""


def raw_generator(*key: int) -> np.random.Philox:
    """Return a counter-based bit stream that depends on the key alone (Salmon et al. 2011)."""
    return np.random.Philox(np.random.SeedSequence(list(key)))


class Generators:
    """Random numbers keyed by (seed, epoch, location, stream), drawn from one generator.

    The numbers are those of `np.random.Philox(key=…)`; setting a generator's state takes a tenth of
    the time of making one, which asks the operating system for a seed that is not used.
    """

    def __init__(self, *, seed: int, epoch: int) -> None:
        self._bits: Any = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state  # counter 0, nothing buffered
        self._key = (seed & 0xFFFFFFFF) << 32 | epoch & 0xFFFFFFFF

    def of(self, location: int, *, stream: int) -> np.random.Generator:
        """Return the generator of one location's randomness, good until the next call.

        Args:
            location: Location id.
            stream: 0 for the choice of dates, 1 + v for view v.
        """
        self._state["state"]["key"][:] = self._key, location << 8 | stream
        self._bits.state = self._state
        return self._generator


@dataclass(frozen=True, kw_only=True)
class Order:
    """The canonical order of one epoch."""

    rows: Int64[np.ndarray, " n"]
    """Position -> row of the index."""
    chunks: Int32[np.ndarray, " n"]
    """Position -> chunk of consecutive rows that is read together."""
    blocks: Int32[np.ndarray, " n"]
    """Position -> block; non-decreasing."""


def order(
    shards: Int32[np.ndarray, " n"],
    *,
    seed: int,
    epoch: int,
    chunk_locations: int = CHUNK_LOCATIONS,
    block_chunks: int = BLOCK_CHUNKS,
    locations: Int64[np.ndarray, " n"] | None = None,
) -> Order:
    """Cut shards into chunks, permute all chunks, then the samples of every block of chunks.

    Args:
        shards: Shard number of every sample in the order of the shards, non-decreasing.
        seed: The run's seed.
        epoch: Epoch, from 0.
        chunk_locations: Locations of one shard that form a chunk.
        block_chunks: Chunks that form a block.
        locations: Which location each sample belongs to, counted up; each to its own if not given.
    """
    n = len(shards)
    locations = np.arange(n) if locations is None else locations
    first_of_shard = np.flatnonzero(np.r_[True, shards[1:] != shards[:-1]])[:n]
    start = np.repeat(locations[first_of_shard], np.diff(np.r_[first_of_shard, n]))
    place = (locations - start) // chunk_locations
    is_first = np.r_[True, (place[1:] != place[:-1]) | (shards[1:] != shards[:-1])][:n]
    chunks = np.cumsum(is_first, dtype=np.int64) - 1
    # Raw 64-bit draws and a stable sort: NumPy promises these bits for ever, not a permutation's.
    bits = raw_generator(seed, epoch, 0)
    num_chunks = int(is_first.sum())
    rank_of_chunk = np.empty(num_chunks, np.int64)
    rank_of_chunk[np.argsort(bits.random_raw(num_chunks), kind="stable")] = np.arange(num_chunks)
    blocks = rank_of_chunk[chunks] // block_chunks
    permutation = np.lexsort((bits.random_raw(n), blocks))
    return Order(
        rows=permutation,
        chunks=chunks[permutation].astype(np.int32),
        blocks=blocks[permutation].astype(np.int32),
    )


@dataclass(frozen=True, kw_only=True)
class Topology:
    """How many read, and how much at a time."""

    world_size: int
    """Ranks."""
    workers: int
    """Loader workers of each rank; 0 reads in the training process."""
    batch_size: int
    """Locations per batch of one rank."""

    def check(self, *, rank: int, seed: int) -> None:
        """Raise ValueError where a number is out of its range."""
        if not 0 <= seed < 1 << 32:
            raise ValueError(f"seed is {seed}; it must be at least 0 and below 2^32.")
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("workers", self.workers, 0),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}.")
        if not 0 <= rank < self.world_size:
            raise ValueError(f"rank {rank} is not within a world of {self.world_size}.")

    @property
    def streams(self) -> int:
        """Streams of batches on each rank."""
        return max(1, self.workers)

    @property
    def global_batch(self) -> int:
        """Locations per step over all ranks."""
        return self.world_size * self.batch_size


def length(intervals: tuple[Interval, ...]) -> int:
    """Return how many positions the intervals hold."""
    return sum(stop - start for start, stop in intervals)


def take_all(intervals: tuple[Interval, ...], slices: Iterable[Interval]) -> tuple[Interval, ...]:
    """Return slices of the concatenated intervals, in one pass; they must not go backwards."""
    taken = []
    number = base = 0  # of the interval at hand, and of its first position in the concatenation
    for start, stop in slices:
        at = start
        while at < stop:
            first, last = intervals[number]
            if base + last - first <= at:
                number, base = number + 1, base + last - first
                continue
            end = min(stop, base + last - first)
            taken.append((first + at - base, first + end - base))
            at = end
    return tuple(taken)


def take(intervals: tuple[Interval, ...], start: int, stop: int) -> tuple[Interval, ...]:
    """Return the positions [start, stop) of the concatenated intervals, as intervals."""
    return take_all(intervals, [(start, min(stop, length(intervals)))])


def num_steps(intervals: tuple[Interval, ...], topology: Topology) -> int:
    """Return the whole global batches in the intervals: the steps of every rank."""
    return length(intervals) // topology.global_batch


def batches_of(steps: int, topology: Topology, *, rank: int, worker: int) -> Interval:
    """Return which batches, counted over all ranks, one worker of one rank reads.

    Batch i of a rank comes from its worker i % streams, so the first workers read one batch more
    where the steps do not divide.
    """
    share, extra = divmod(steps, topology.streams)
    first = rank * steps + worker * share + min(worker, extra)
    return first, first + share + (worker < extra)


def stream(
    intervals: tuple[Interval, ...], topology: Topology, *, rank: int, worker: int
) -> tuple[Interval, ...]:
    """Return what one worker of one rank reads: a whole number of batches."""
    steps, batch = num_steps(intervals, topology), topology.batch_size
    first, stop = batches_of(steps, topology, rank=rank, worker=worker)
    return take(intervals, first * batch, stop * batch)


def batches_done(steps: int, topology: Topology, *, worker: int) -> int:
    """Return how many of the first `steps` batches of a rank came from one of its workers."""
    return (steps - worker + topology.streams - 1) // topology.streams


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where an epoch stands; the same value on every rank."""

    epoch: int
    """Epoch, from 0."""
    intervals: tuple[Interval, ...]
    """What was left of the epoch's order when it was last split over a topology."""
    topology: Topology
    """That topology."""
    steps: int
    """Steps taken since."""

    @classmethod
    def start(cls, epoch: int, *, samples: int, topology: Topology) -> "Position":
        """Return the start of an epoch."""
        return cls(epoch=epoch, intervals=((0, samples),), topology=topology, steps=0)

    def remaining(self) -> tuple[Interval, ...]:
        """Return the positions not yet handed out, merged and in order."""
        topology, batch = self.topology, self.topology.batch_size
        steps = num_steps(self.intervals, topology)
        left: list[Interval] = []
        for rank in range(topology.world_size):
            for worker in range(topology.streams):
                first, stop = batches_of(steps, topology, rank=rank, worker=worker)
                done = batches_done(self.steps, topology, worker=worker)
                left.append(((first + done) * batch, stop * batch))
        left.append((steps * topology.global_batch, length(self.intervals)))
        merged: list[Interval] = []
        for start, stop in take_all(self.intervals, left):
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], stop)
            else:
                merged.append((start, stop))
        return tuple(merged)

    def on(self, topology: Topology) -> "Position":
        """Return the same place for another topology: what is left is split anew."""
        if topology == self.topology:
            return self
        return type(self)(epoch=self.epoch, intervals=self.remaining(), topology=topology, steps=0)

    def to_dict(self) -> dict[str, Any]:
        """Return the place as JSON-able values."""
        return {
            "epoch": self.epoch,
            "intervals": [list(interval) for interval in self.intervals],
            "world_size": self.topology.world_size,
            "workers": self.topology.workers,
            "batch_size": self.topology.batch_size,
            "steps": self.steps,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Position":
        """Read what `to_dict` returned."""
        return cls(
            epoch=state["epoch"],
            intervals=tuple((start, stop) for start, stop in state["intervals"]),
            topology=Topology(
                world_size=state["world_size"],
                workers=state["workers"],
                batch_size=state["batch_size"],
            ),
            steps=state["steps"],
        )
