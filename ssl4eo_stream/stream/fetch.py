"""Byte ranges ahead of need: the members of one worker's samples, in the order of its stream.

A chunk's members lie side by side in their shard, so they come in few requests; requests run on a
small thread pool and a budget of bytes bounds what waits in memory. Every member is checked by its
CRC-32C, and read once more, straight from the store, if that is wrong.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import google_crc32c
import numpy as np

from ssl4eo_stream.errors import ShardError, Ssl4eoError
from ssl4eo_stream.store import Store, coalesce
from ssl4eo_stream.stream.cache import Cache
from ssl4eo_stream.stream.work import Work

logger = logging.getLogger(__name__)

GAP_BYTES = 256 << 10
"""Unwanted bytes that are read rather than asked around: of a MoCo epoch's bytes every second is in
vain then. A request costs a file next to nothing and object storage tens of milliseconds, which
others fill."""
REQUEST_BYTES = 16 << 20
"""Largest single request; storage gives one connection about 90 MB/s."""

Seen = tuple[int, tuple[int, ...]]
"""What one view shows: a date of the sample, and which products of it."""
Choose = Callable[[int, int], tuple[Seen, ...]]
"""(location id, number of its dates) -> what each view shows."""
Member = tuple[int, int, int]
"""Row of the work, date of the sample, product."""


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Where the members of one product are read from."""

    store: Store
    """The folder."""
    names: dict[int, str]
    """Shard number -> file name."""
    cache: Cache | None
    """Blocks on local disk, if wanted."""

    def read(self, name: str, *, start: int, end: int) -> memoryview:
        """Return the bytes [start, end) of a shard."""
        if self.cache is None:
            return self.store.read_range(name, start=start, end=end)
        return self.cache.read_range(self.store, name, start=start, end=end)

    def read_again(self, name: str, *, start: int, end: int) -> memoryview:
        """Return the bytes from the store, whatever the cache holds."""
        if self.cache is not None:
            self.cache.forget(self.store, name, start=start, end=end)
        return self.store.read_range(name, start=start, end=end)


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """One sample's bytes."""

    id: int
    """Location id."""
    block: tuple[int, int]
    """Epoch, and block of its order, that it belongs to."""
    first_date: int
    """The location's date that the sample counts as 0."""
    views: tuple[Seen, ...]
    """What each view shows."""
    members: dict[tuple[int, int], bytes | Ssl4eoError]
    """(date, product) -> the bytes of its GeoTIFF, or why there are none; only what is shown."""

    @property
    def error(self) -> Ssl4eoError | None:
        """Why the sample is not whole, if it isn't."""
        return next((m for m in self.members.values() if isinstance(m, Ssl4eoError)), None)


@dataclass(frozen=True, kw_only=True)
class _Request:
    work: Work
    product: int
    shard: int
    start: int
    end: int
    block: tuple[int, int]
    members: list[Member]  # sorted by offset
    num_bytes: int


class Fetch:
    """Yields every sample of work after work with its bytes, in order.

    A member that cannot be had is handed on as the error that says why. The first bytes of the next
    work are asked for while the last samples of the one before it are handed out.

    Args:
        shards: Each product's shards.
        budget_bytes: Bytes fetched or in flight ahead of need; the block being read may exceed it.
        connections: Requests at a time.
    """

    def __init__(self, shards: tuple[Shards, ...], *, budget_bytes: int, connections: int) -> None:
        self._shards, self._budget_bytes = shards, budget_bytes
        self._pool = ThreadPoolExecutor(connections, thread_name_prefix="fetch")
        self._samples: deque[tuple[Work, int]] = deque()  # (work, its next row)
        self._shown: dict[tuple[int, int], tuple[Seen, ...]] = {}  # (epoch, row) -> views
        self._requests: deque[Iterator[_Request]] = deque()  # of each work
        self._upcoming: _Request | None = None
        self._owner: dict[tuple[int, Member], Future[dict[Member, bytes | Ssl4eoError]]] = {}
        self._held_bytes = 0

    def add(self, work: Work, *, choose: Choose) -> None:
        """Append work of another epoch.

        Args:
            work: What to read.
            choose: Says what views show before anything is read, so that only that is.
        """
        if len(work):
            self._samples.append((work, 0))
            self._requests.append(_requests(work, choose=choose, shown=self._shown))
            self._upcoming = self._upcoming or self._next_request()

    def __iter__(self) -> "Fetch":
        return self

    def __next__(self) -> Fetched:
        if not self._samples:
            raise StopIteration
        work, row = self._samples.popleft()
        if row + 1 < len(work):
            self._samples.appendleft((work, row + 1))
        block = work.epoch, int(work.blocks[row])
        self._ask(block)
        views = self._shown.pop((work.epoch, row))
        members = {}
        for date, product in _wanted(views):
            member = row, date, product
            future = self._owner.pop((work.epoch, member))
            members[date, product] = future.result().pop(member)
            self._held_bytes -= int(work.lengths[work.first_date[row] + date, product])
        return Fetched(
            id=int(work.ids[row]), block=block, first_date=int(work.dates[row]), views=views,
            members=members,
        )  # fmt: skip

    def _ask(self, block: tuple[int, int]) -> None:
        """Send the requests of a block, and of what follows as far as the budget goes."""
        while (each := self._upcoming) and (
            each.block <= block or self._held_bytes + each.num_bytes <= self._budget_bytes
        ):
            shards = self._shards[each.product]
            future = self._pool.submit(_read, each, work=each.work, shards=shards)
            self._owner.update(((each.work.epoch, member), future) for member in each.members)
            self._held_bytes += each.num_bytes
            self._upcoming = self._next_request()

    def _next_request(self) -> _Request | None:
        while self._requests:
            if each := next(self._requests[0], None):
                return each
            self._requests.popleft()
        return None

    def close(self) -> None:
        """Drop what was asked for; waits for reads in progress."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._samples.clear()


def _wanted(views: tuple[Seen, ...]) -> list[tuple[int, int]]:
    """Return every (date, product) that some view shows, once."""
    return sorted({(date, product) for date, products in views for product in products})


def _requests(
    work: Work,
    *,
    choose: Choose,
    shown: dict[tuple[int, int], tuple[Seen, ...]],
) -> Iterator[_Request]:
    """Yield the requests of the work by block, and note what was chosen for each row."""
    bounds = np.flatnonzero(np.diff(work.blocks, prepend=-1, append=-1))
    for first, last in pairwise(bounds):
        files: dict[tuple[int, int, int], list[tuple[int, int, Member]]] = {}  # by first use
        for row in range(first, last):
            base, stop = work.first_date[row], work.first_date[row + 1]
            views = shown[work.epoch, row] = choose(int(work.ids[row]), int(stop - base))
            for date, product in _wanted(views):
                file = int(work.chunks[row]), product, int(work.shards[row, product])
                start = int(work.offsets[base + date, product])
                end = start + int(work.lengths[base + date, product])
                files.setdefault(file, []).append((start, end, (row, date, product)))
        for (_, product, shard), members in files.items():
            yield from _coalesced(
                sorted(members), work=work, product=product, shard=shard,
                block=(work.epoch, int(work.blocks[first])), gap_bytes=GAP_BYTES,
            )  # fmt: skip


def _coalesced(
    wanted: list[tuple[int, int, Member]],
    *,
    work: Work,
    product: int,
    shard: int,
    block: tuple[int, int],
    gap_bytes: int,
) -> Iterator[_Request]:
    spans = [(start, end) for start, end, _ in wanted]
    at = 0
    for start, end in coalesce(spans, gap_bytes=gap_bytes, limit_bytes=REQUEST_BYTES):
        first = at
        while at < len(wanted) and wanted[at][1] <= end:
            at += 1
        inside = wanted[first:at]
        yield _Request(
            work=work, product=product, shard=shard, start=start, end=end, block=block,
            members=[member for _, _, member in inside],
            num_bytes=sum(last - begin for begin, last, _ in inside),
        )  # fmt: skip


def _read(request: _Request, *, work: Work, shards: Shards) -> dict[Member, bytes | Ssl4eoError]:
    """Read one range and cut the members out of it, so that what lies between them is let go."""
    name = shards.names[request.shard]
    try:
        data = shards.read(name, start=request.start, end=request.end)
    except Ssl4eoError as error:
        keys = sorted({int(work.ids[row]) for row, _, _ in request.members})
        error.add_note(f"while reading locations {keys[0]:07d} … {keys[-1]:07d}")
        return dict.fromkeys(request.members, error)
    out: dict[Member, bytes | Ssl4eoError] = {}
    for row, date, product in request.members:
        at = work.first_date[row] + date, product
        offset, length = int(work.offsets[at]), int(work.lengths[at])
        start = offset - request.start
        member = bytes(data[start : start + length])
        if google_crc32c.value(member) != work.crc32c[at]:
            what = f"{work.ids[row]:07d}.t{work.dates[row] + date}.tif"
            out[row, date, product] = _read_again(
                shards, name, offset, length, crc32c=int(work.crc32c[at]), member=what
            )
        else:
            out[row, date, product] = member
    return out


def _read_again(
    shards: Shards, name: str, offset: int, length: int, *, crc32c: int, member: str
) -> bytes | Ssl4eoError:
    """Read one member once more: it may have been damaged on its way, or in the cache."""
    logger.warning(
        "%s/%s: member %s came damaged; reading it again.", shards.store.url, name, member
    )
    try:
        data = bytes(shards.read_again(name, start=offset, end=offset + length))
    except Ssl4eoError as error:
        return error
    if google_crc32c.value(data) == crc32c:
        return data
    return ShardError(
        f"{shards.store.url}/{name}: member {member} at byte {offset} is damaged (its CRC-32C is "
        "not the index's, read twice). Run ssl4eo-shard verify on the data set, and copy or build "
        "this shard again."
    )
