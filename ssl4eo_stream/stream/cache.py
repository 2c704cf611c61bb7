"""Bytes on local disk: what one process of a node has fetched from storage, all of them read there.

Objects are kept as blocks of fixed size; a block is of one version of one object (URL, ETag, size).
What the cache cannot do it leaves to storage: it never makes a read fail, and never waits for
others for long. See `stream/slots.py` for what happens between processes.
"""

import hashlib
import itertools
import logging
import os
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.slots import Key, Slots

BLOCK_BYTES = 1 << 20
"""Bytes of a block. Reads begin and end inside a block, so that each fetches and checks about one
block too many: of a chunk of 6 MiB, 1 MiB wastes a sixth and 4 MiB two thirds."""
WAIT_SECONDS = 30.0
"""Longest wait for a block that somebody else is fetching, before fetching it too."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CacheCounts:
    """What a cache did for one process over some time."""

    hits: int = 0
    """Blocks read from disk, those that others fetched while we waited included."""
    misses: int = 0
    """Blocks that this process fetched from storage."""
    bytes: int = 0
    """Bytes asked for that came from disk."""
    evictions: int = 0
    """Blocks that this process threw out to make room."""


class CacheCounters:
    """Counts from many threads."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._counts = CacheCounts()

    def add(
        self, *, hits: int = 0, misses: int = 0, num_bytes: int = 0, evictions: int = 0
    ) -> None:
        """Add to the counts."""
        with self._mutex:
            old = self._counts
            self._counts = CacheCounts(
                hits=old.hits + hits,
                misses=old.misses + misses,
                bytes=old.bytes + num_bytes,
                evictions=old.evictions + evictions,
            )

    def take(self) -> CacheCounts:
        """Return the counts since the last call."""
        with self._mutex:
            counts, self._counts = self._counts, CacheCounts()
        return counts


class Cache:
    """A folder on local disk that all processes of a node share; any number of threads may read.

    Every process opens it for itself. A forked child may use its parent's.
    """

    def __init__(self, slots: Slots) -> None:
        self.counters = CacheCounters()
        self._slots = slots
        self._keys: dict[str, Key | None] = {}
        self._told: set[str] = set()
        _open_caches.add(self)

    @classmethod
    def open(
        cls, folder: str | Path, *, limit_bytes: int, block_bytes: int = BLOCK_BYTES
    ) -> "Cache":
        """Open a cache, or make one. A smaller limit than last time throws blocks out.

        Args:
            folder: A folder of its own on a disk of this machine.
            limit_bytes: Most bytes of all its files together, at any moment. The file of blocks has
                this length from the start; it takes room on disk as blocks come in.
            block_bytes: Bytes of a block. Another value than last time empties the cache.

        Raises:
            StorageError: The folder cannot be written or locked, holds something else, has another
                version's cache, or is in use with another limit.
            ValueError: The limit has no room for an empty cache (64 bytes).
        """
        folder = Path(folder).expanduser().absolute()
        slots = Slots(folder, limit_bytes=limit_bytes, block_bytes=block_bytes)
        if not slots.count:
            logger.warning(
                "a limit of %d bytes has no room for a block of %d: nothing is cached in %s",
                limit_bytes, block_bytes, folder,
            )  # fmt: skip
        if missing := slots.missing_room():
            logger.warning(
                "the disk of %s has %d bytes too few for the limit of %d; what finds no room "
                "will be read from storage",
                folder, missing, limit_bytes,
            )  # fmt: skip
        return cls(slots)

    def read_range(self, store: Store, path: str, *, start: int, end: int) -> memoryview:
        """Return the bytes [start, end) of an object, from disk where they are there.

        Args:
            store: Where the object lies.
            path: Its path in the store.
            start: First byte.
            end: One after the last byte.

        Raises:
            StorageError: As `store.read_range`.
        """
        key = self._key(store, path) if self._slots.count else None
        if key is None or not 0 <= start < end <= key.size:
            return store.read_range(path, start=start, end=end)
        read = _Read(store, path, key, start=start, end=end, block_bytes=self._slots.block_bytes)
        missing = set(read.blocks)
        deadline = time.monotonic() + WAIT_SECONDS
        while missing := self._from_disk(read, missing):
            try:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"others have been fetching for {WAIT_SECONDS:.0f} s")
                claim = self._slots.claim(key, missing)
            except OSError as error:
                self._say_once("claim", f"reads go to storage where others hold them up: {error}")
                self._from_storage(read, missing, slots={})
                break
            self.counters.add(evictions=claim.evictions)
            self._from_storage(read, missing - claim.others, slots=claim.slots)
            # Only now, with nothing of ours left to fill, is it safe to wait for others.
            missing = claim.others
            self._wait(key, missing, deadline=deadline)
        return read.out.data.toreadonly()

    def forget(self, store: Store, path: str, *, start: int, end: int) -> None:
        """Drop the blocks of a range whose bytes turned out bad, and ask for the ETag anew.

        Args:
            store: Where the object lies.
            path: Its path in the store.
            start: First byte.
            end: One after the last byte.
        """
        size = self._slots.block_bytes
        if key := self._keys.pop(f"{store.url}/{path}", None):
            self._slots.drop(key, range(start // size, -(-end // size)))

    def close(self) -> None:
        """Let go of the folder; no read may be running, nor follow."""
        _open_caches.discard(self)
        self._slots.close()

    def _key(self, store: Store, path: str) -> Key | None:
        """Return what an object's blocks are known by, asked once; None where it has no version."""
        name = f"{store.url}/{path}"
        if name not in self._keys:
            self._keys[name] = self._ask(store, path, name)
        return self._keys[name]

    def _ask(self, store: Store, path: str, name: str) -> Key | None:
        try:
            info = store.head(path)
        except StorageError as error:
            self._say_once(store.url, f"nothing of {store.url} is cached without ETags: {error}")
            return None
        if not info.etag:
            self._say_once(store.url, f"nothing of {store.url} is cached: it gives no ETags")
            return None
        version = "\n".join((name, info.etag, str(info.size), str(self._slots.block_bytes)))
        return Key(name=name, size=info.size, digest=hashlib.sha256(version.encode()).digest())

    def _from_disk(self, read: "_Read", wanted: set[int]) -> set[int]:
        """Copy those blocks that are on disk; return the rest."""
        missing = set(wanted)
        found = self._slots.find(read.key, missing) if missing else {}
        for block, slot in sorted(found.items()):
            data = read.room_for(block)
            if self._slots.read(slot, read.key, block, into=data):
                missing.remove(block)
                self.counters.add(hits=1, num_bytes=read.place(data, at=read.span(block)[0]))
        return missing

    def _from_storage(self, read: "_Read", wanted: set[int], *, slots: dict[int, int]) -> None:
        """Fetch blocks, neighbours in one request, and fill the slots claimed for them."""
        unfilled = dict(slots)

        def run_of(numbered: tuple[int, int]) -> tuple[int, bool]:
            return numbered[1] - numbered[0], numbered[1] in slots

        try:
            for (_, claimed), run in itertools.groupby(enumerate(sorted(wanted)), run_of):
                blocks = [block for _, block in run]
                low, high = read.span(blocks[0])[0], read.span(blocks[-1])[1]
                if not claimed:
                    low, high = max(low, read.start), min(high, read.end)
                view = read.store.read_range(read.path, start=low, end=high)
                data = np.frombuffer(view, np.uint8)
                read.place(data, at=low)
                self.counters.add(misses=len(blocks))
                for block in blocks if claimed else ():
                    first, last = read.span(block)
                    if self._fill(unfilled[block], read.key, block, data[first - low : last - low]):
                        del unfilled[block]
        finally:
            for slot in unfilled.values():
                self._slots.release(slot)

    def _fill(self, slot: int, key: Key, block: int, data: UInt8[np.ndarray, " n"]) -> bool:
        try:
            self._slots.fill(slot, key, block, data)
        except OSError as error:
            self._say_once("fill", f"blocks that cannot be written come from storage: {error}")
            return False
        return True

    def _wait(self, key: Key, blocks: set[int], *, deadline: float) -> None:
        """Wait until one of the blocks is no longer being filled, or until the deadline."""
        pause = 0.001
        while blocks and time.monotonic() < deadline:
            found = self._slots.find(key, blocks)
            if len(found) < len(blocks) or not all(map(self._slots.is_filling, found.values())):
                return
            time.sleep(pause)
            pause = min(2 * pause, 0.02)

    def _say_once(self, topic: str, message: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            logger.warning("cache %s: %s (said once)", self._slots.folder, message)

    def _after_fork(self) -> None:
        self.counters = CacheCounters()
        self._slots.let_go()


class _Read:
    """A range that is put together from blocks."""

    def __init__(
        self, store: Store, path: str, key: Key, *, start: int, end: int, block_bytes: int
    ) -> None:
        self.store, self.path, self.key, self.start, self.end = store, path, key, start, end
        self.blocks = range(start // block_bytes, -(-end // block_bytes))
        self.out = np.empty(end - start, np.uint8)
        self._block_bytes = block_bytes

    def span(self, block: int) -> tuple[int, int]:
        """Return the bytes [first, last) of the object that a block holds."""
        first = block * self._block_bytes
        return first, min(first + self._block_bytes, self.key.size)

    def room_for(self, block: int) -> UInt8[np.ndarray, " n"]:
        """Return memory for a whole block: its place in the range, if all of it is wanted."""
        first, last = self.span(block)
        if self.start <= first and last <= self.end:
            return self.out[first - self.start : last - self.start]
        return np.empty(last - first, np.uint8)

    def place(self, data: UInt8[np.ndarray, " n"], *, at: int) -> int:
        """Copy what is wanted of the object's bytes from `at`; return how many those are."""
        first, last = max(at, self.start), min(at + len(data), self.end)
        if data.base is not self.out:
            self.out[first - self.start : last - self.start] = data[first - at : last - at]
        return last - first


_open_caches: "weakref.WeakSet[Cache]" = weakref.WeakSet()


def _let_parent_be() -> None:
    for cache in _open_caches:
        cache._after_fork()


os.register_at_fork(after_in_child=_let_parent_be)
