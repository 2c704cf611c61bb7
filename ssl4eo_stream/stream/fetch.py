"""Byte ranges ahead of need: the members of one worker's locations, in the order of its stream.

A chunk's members lie side by side in their shard, so they come in few requests; requests run on a
small thread pool and a budget of bytes bounds what waits in memory. Every member is checked by its
CRC-32C.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import google_crc32c
import numpy as np
from jaxtyping import Int32, Int64, UInt32

from ssl4eo_stream.errors import ShardError, Ssl4eoError
from ssl4eo_stream.shard.manifest import Index, shard_name
from ssl4eo_stream.store import Store, coalesce
from ssl4eo_stream.stream.plan import Interval, Order

LOCAL_GAP_BYTES = 64 << 10
"""Unwanted bytes read from a file rather than asking twice."""
REMOTE_GAP_BYTES = 1 << 20
"""The same for object storage, where a request costs tens of milliseconds."""
REQUEST_BYTES = 16 << 20
"""Largest single request; storage gives one connection about 90 MB/s."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one worker reads in one epoch: n locations in order, with their d members."""

    seed: int
    """The run's seed."""
    epoch: int
    """Epoch, from 0."""
    ids: Int64[np.ndarray, " n"]
    """Location ids."""
    shards: Int32[np.ndarray, " n"]
    """Shard numbers."""
    chunks: Int32[np.ndarray, " n"]
    """Chunk of consecutive rows that each location belongs to."""
    blocks: Int32[np.ndarray, " n"]
    """Block of chunks that each location belongs to; non-decreasing."""
    first_date: Int64[np.ndarray, " n_plus_1"]
    """Where each location's members begin in the arrays below."""
    offsets: Int64[np.ndarray, " d"]
    """First byte of each member in its shard."""
    lengths: Int64[np.ndarray, " d"]
    """Bytes of each member."""
    crc32c: UInt32[np.ndarray, " d"]
    """Expected CRC-32C of each member."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def make(
        cls, index: Index, order: Order, intervals: tuple[Interval, ...], *, seed: int, epoch: int
    ) -> "Work":
        """Gather what a worker needs to know to read some intervals of an epoch's order."""
        spans = [np.arange(start, stop) for start, stop in intervals]
        positions = np.concatenate(spans) if spans else np.zeros(0, np.int64)
        rows = order.rows[positions]
        counts = index.first_date[rows + 1] - index.first_date[rows]
        first_date = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        members = np.repeat(index.first_date[rows] - first_date[:-1], counts)
        members += np.arange(first_date[-1])
        return cls(
            seed=seed,
            epoch=epoch,
            ids=index.ids[rows],
            shards=index.shards[rows],
            chunks=order.chunks[positions],
            blocks=order.blocks[positions],
            first_date=first_date,
            offsets=index.offsets[members],
            lengths=index.lengths[members],
            crc32c=index.crc32c[members],
        )


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """One location's bytes."""

    id: int
    """Location id."""
    dates: tuple[int, ...]
    """Which date each view shows."""
    members: dict[int, bytes]
    """Date -> the bytes of its GeoTIFF; only the dates that a view shows."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    shard: int
    start: int
    end: int
    block: int
    members: list[tuple[int, int]]  # (row, date), sorted by offset
    num_bytes: int


DatesOf = Callable[[int, int], tuple[int, ...]]
"""(location id, number of its dates) -> the date that each view shows."""


def fetch(
    work: Work,
    *,
    store: Store,
    product: str,
    dates_of: DatesOf,
    budget_bytes: int,
    connections: int,
) -> Iterator[Fetched]:
    """Yield every location of the work with its bytes, in order.

    Args:
        work: What to read.
        store: The folder of shards.
        product: The product's name, which shard names begin with.
        dates_of: Chooses dates before anything is read, so that only those are.
        budget_bytes: Bytes fetched or in flight ahead of need; the block being read may exceed it.
        connections: Requests at a time.

    Raises:
        StorageError: A read failed for good.
        ShardError: A member is damaged.
    """
    gap_bytes = LOCAL_GAP_BYTES if store.is_local else REMOTE_GAP_BYTES
    dates: dict[int, tuple[int, ...]] = {}
    requests = _requests(work, dates_of=dates_of, dates=dates, gap_bytes=gap_bytes)
    upcoming = next(requests, None)
    owner: dict[tuple[int, int], Future[dict[tuple[int, int], bytes]]] = {}
    held = 0
    pool = ThreadPoolExecutor(connections, thread_name_prefix="fetch")
    try:
        for row in range(len(work)):
            block = work.blocks[row]
            while upcoming and (
                upcoming.block <= block or held + upcoming.num_bytes <= budget_bytes
            ):
                future = pool.submit(_read, upcoming, work=work, store=store, product=product)
                owner.update(dict.fromkeys(upcoming.members, future))
                held += upcoming.num_bytes
                upcoming = next(requests, None)
            shown = dates.pop(row)
            members = {}
            for date in sorted(set(shown)):
                members[date] = owner.pop((row, date)).result().pop((row, date))
                held -= len(members[date])
            yield Fetched(id=int(work.ids[row]), dates=shown, members=members)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _requests(
    work: Work, *, dates_of: DatesOf, dates: dict[int, tuple[int, ...]], gap_bytes: int
) -> Iterator[_Request]:
    """Yield the requests of the work by block, and note the dates chosen for each row."""
    bounds = np.flatnonzero(np.diff(work.blocks, prepend=-1, append=-1))
    for first, last in pairwise(bounds):
        by_chunk: dict[int, list[int]] = {}  # in the order of first use
        for row in range(first, last):
            by_chunk.setdefault(int(work.chunks[row]), []).append(row)
        for rows in by_chunk.values():
            yield from _chunk_requests(
                work, rows, dates_of=dates_of, dates=dates, gap_bytes=gap_bytes
            )


def _chunk_requests(
    work: Work,
    rows: list[int],
    *,
    dates_of: DatesOf,
    dates: dict[int, tuple[int, ...]],
    gap_bytes: int,
) -> Iterator[_Request]:
    wanted: list[tuple[int, int, int, int]] = []  # start, end, row, date
    for row in rows:
        base, count = work.first_date[row], work.first_date[row + 1] - work.first_date[row]
        dates[row] = dates_of(int(work.ids[row]), int(count))
        for date in set(dates[row]):
            start = int(work.offsets[base + date])
            wanted.append((start, start + int(work.lengths[base + date]), row, date))
    wanted.sort()
    spans = [(start, end) for start, end, _, _ in wanted]
    at = 0
    for start, end in coalesce(spans, gap_bytes=gap_bytes, limit_bytes=REQUEST_BYTES):
        first = at
        while at < len(wanted) and wanted[at][1] <= end:
            at += 1
        inside = wanted[first:at]
        yield _Request(
            shard=int(work.shards[rows[0]]),
            start=start,
            end=end,
            block=int(work.blocks[rows[0]]),
            members=[(row, date) for _, _, row, date in inside],
            num_bytes=sum(last - begin for begin, last, _, _ in inside),
        )


def _read(
    request: _Request, *, work: Work, store: Store, product: str
) -> dict[tuple[int, int], bytes]:
    """Read one range and cut the members out of it, so that what lies between them is let go."""
    name = shard_name(product, request.shard)
    try:
        data = store.read_range(name, start=request.start, end=request.end)
    except Ssl4eoError as error:
        keys = sorted({int(work.ids[row]) for row, _ in request.members})
        error.add_note(f"while reading locations {keys[0]:07d} … {keys[-1]:07d}")
        raise
    out = {}
    for row, date in request.members:
        at = work.first_date[row] + date
        start = int(work.offsets[at]) - request.start
        member = bytes(data[start : start + int(work.lengths[at])])
        if google_crc32c.value(member) != work.crc32c[at]:
            raise ShardError(
                f"{store.url}/{name}: member {work.ids[row]:07d}.t{date}.tif at byte "
                f"{work.offsets[at]} is damaged (its CRC-32C is not the index's). "
                "Run ssl4eo-shard verify on the data set, and copy or build this shard again."
            )
        out[row, date] = member
    return out
