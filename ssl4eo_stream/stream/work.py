"""What one worker reads in an epoch: a table of members, and which of them each sample needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Int32, Int64, UInt32

from ssl4eo_stream.stream.catalog import Catalog
from ssl4eo_stream.stream.plan import (
    Interval,
    Order,
    Position,
    batches_done,
    length,
    num_steps,
    order,
    stream,
    take,
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """n samples in order, with their d dates in each of p products."""

    seed: int
    """The run's seed."""
    epoch: int
    """Epoch, from 0."""
    ids: Int64[np.ndarray, " n"]
    """Location ids."""
    chunks: Int32[np.ndarray, " n"]
    """Chunk of neighbouring locations that each sample belongs to."""
    blocks: Int32[np.ndarray, " n"]
    """Block of chunks that each sample belongs to; non-decreasing while intervals are."""
    dates: Int64[np.ndarray, " n"]
    """The first of each sample's dates, as the location counts them."""
    shards: Int32[np.ndarray, "n p"]
    """Shard numbers."""
    first_date: Int64[np.ndarray, " n_plus_1"]
    """Where each sample's dates begin in the arrays below."""
    offsets: Int64[np.ndarray, "d p"]
    """First byte of each member in its shard."""
    lengths: Int64[np.ndarray, "d p"]
    """Bytes to read of each member: through the last page that is wanted."""
    crc32c: UInt32[np.ndarray, "d p"]
    """Expected CRC-32C of those bytes."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def make(
        cls,
        catalog: Catalog,
        order: Order,
        intervals: tuple[Interval, ...],
        *,
        seed: int,
        epoch: int,
    ) -> "Work":
        """Gather what a worker needs to know to read some intervals of an epoch's order."""
        spans = [np.arange(start, stop) for start, stop in intervals]
        positions = np.concatenate(spans) if spans else np.zeros(0, np.int64)
        samples = order.rows[positions]
        rows, counts = catalog.rows[samples], catalog.num_dates[samples]
        first_date = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        shards, offsets, lengths, crc32c = [], [], [], []
        for p, (source, index) in enumerate(zip(catalog.sources, catalog.indexes, strict=True)):
            start = index.first_date[rows[:, p]] + catalog.first_date[samples] - first_date[:-1]
            members = np.repeat(start, counts) + np.arange(first_date[-1])
            shards.append(index.shards[rows[:, p]])
            offsets.append(index.offsets[members])
            lengths.append(index.page_ends[members, source.last_page])
            crc32c.append(index.page_crc32c[members, source.last_page])
        return cls(
            seed=seed,
            epoch=epoch,
            ids=catalog.ids[samples],
            chunks=order.chunks[positions],
            blocks=order.blocks[positions],
            dates=catalog.first_date[samples],
            shards=np.stack(shards, axis=1),
            first_date=first_date,
            offsets=np.stack(offsets, axis=1),
            lengths=np.stack(lengths, axis=1),
            crc32c=np.stack(crc32c, axis=1),
        )


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What is left of one epoch, for one rank."""

    first: int
    """The step it begins with."""
    stop: int
    """The step it ends before."""
    work: Callable[[int], Work]
    """Stream of batches -> what it has yet to read; worked out when it is called."""


def passes(position: Position, catalog: Catalog, *, seed: int, rank: int) -> Iterator[Pass]:
    """Yield what is left of the epoch at `position`, then every epoch after it, without end."""
    while True:
        yield _pass(position, catalog, seed=seed, rank=rank)
        position = Position.start(
            position.epoch + 1, samples=len(catalog), topology=position.topology
        )


def _pass(position: Position, catalog: Catalog, *, seed: int, rank: int) -> Pass:
    intervals, topology, epoch = position.intervals, position.topology, position.epoch

    @cache
    def canonical() -> Order:
        return order(catalog.shards, seed=seed, epoch=epoch, locations=catalog.locations)

    def work(worker: int) -> Work:
        mine = stream(intervals, topology, rank=rank, worker=worker)
        done = batches_done(position.steps, topology, worker=worker) * topology.batch_size
        rest = take(mine, done, length(mine))
        return Work.make(catalog, canonical(), rest, seed=seed, epoch=epoch)

    return Pass(first=position.steps, stop=num_steps(intervals, topology), work=work)
