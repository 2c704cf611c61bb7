"""What the cache's tests share, and node-mates: processes that fill a cache until they are killed.

Run: `python tests/cache_process.py '{"data": …, "cache": …, …}'` (the fields of `Mate`, as JSON).
The process starts readers by fork, before it has used a store, and kills each after a random time;
the last one may finish. Exit status 0: every byte of every read was right.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.cache import Cache
from ssl4eo_stream.stream.slot_files import HEADER, RECORD_BYTES

BLOCK = 64
SIZES = (1000, 640, 64, 1)
"""Bytes of the small objects `0.tar` … of the tests within one process."""


def limit_for(slots, *, block_bytes=BLOCK):
    """The smallest limit with room for so many blocks."""
    return HEADER.size + slots * (block_bytes + RECORD_BYTES)


def size_of(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def content(number, num_bytes):
    """The bytes of object `number`: what every read is compared with."""
    return np.random.default_rng(number).bytes(num_bytes)


def write_objects(folder, sizes=SIZES):
    folder.mkdir()
    for number, size in enumerate(sizes):
        (folder / f"{number}.tar").write_bytes(content(number, size))
    return folder


def reader(store, cache):
    """A function that reads a range of an object, compares it, and returns hits and misses."""

    def read(number=0, start=0, end=None):
        end = SIZES[number] if end is None else end
        data = cache.read_range(store, f"{number}.tar", start=start, end=end)
        assert data == content(number, SIZES[number])[start:end]
        counts = cache.counters.take()
        return counts.hits, counts.misses

    return read


@contextmanager
def caches(folder):
    """A function that opens the cache of a folder, or of another; all are closed in the end."""
    opened = []

    def open_(slots=16, *, folder=folder, block_bytes=BLOCK):
        limit_bytes = limit_for(slots, block_bytes=block_bytes)
        opened.append(Cache.open(folder, limit_bytes=limit_bytes, block_bytes=block_bytes))
        return opened[-1]

    try:
        yield open_
    finally:
        for cache in opened:
            cache.close()


@dataclass(frozen=True, kw_only=True)
class Mate:
    """What one process is to do."""

    data: str
    """URL of the objects `0.tar` …"""
    log: str
    """File that all mates append to: `fetch PID NAME START END` and `kill PID`."""
    cache: str
    """The cache's folder."""
    limit_bytes: int
    """The cache's limit."""
    block_bytes: int
    """The cache's block."""
    objects: int
    """How many objects there are."""
    object_bytes: int
    """Bytes of each."""
    rounds: int
    """How often a reader reads everything before it ends."""
    kills: int
    """How many readers are killed."""
    seed: int
    """Of ranges read and times of death."""


class LoggedStore(Store):
    """A store that says in a file what is fetched, and takes its time over it."""

    log, begun = "", -1

    def read_range(self, path, *, start, end):
        append(self.log, f"fetch {os.getpid()} {path} {start} {end}\n")
        os.write(self.begun, b"1")
        time.sleep(random.uniform(0, 0.05))
        return super().read_range(path, start=start, end=end)


def append(path, line):
    with Path(path).open("a") as file:
        file.write(line)


def read_everything(mate, *, seed, begun):
    """Read all objects in ranges of random length and order, on three threads."""
    LoggedStore.log, LoggedStore.begun = mate.log, begun
    store = LoggedStore.open(mate.data)
    cache = Cache.open(mate.cache, limit_bytes=mate.limit_bytes, block_bytes=mate.block_bytes)
    rng = random.Random(seed)
    expected = [content(number, mate.object_bytes) for number in range(mate.objects)]

    def check(number, start, end):
        data = cache.read_range(store, f"{number}.tar", start=start, end=end)
        if data != expected[number][start:end]:
            raise AssertionError(f"wrong bytes in {number}.tar, {start}-{end}")

    for _ in range(mate.rounds):
        ranges = []
        for number in range(mate.objects):
            at = 0
            while at < mate.object_bytes:
                end = min(at + rng.randint(1, 5 * mate.block_bytes), mate.object_bytes)
                ranges.append((number, at, end))
                at = end
        rng.shuffle(ranges)
        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(check, *each) for each in ranges]:
                done.result()


def run(mate):
    """Start readers and kill them; return the exit status of the first that failed, else 0."""
    rng = random.Random(mate.seed)
    for turn in range(mate.kills + 1):
        told, begun = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                read_everything(mate, seed=rng.random() + turn, begun=begun)
            except BaseException:  # noqa: BLE001 - a forked child must end here, whatever happened
                traceback.print_exc()
                os._exit(3)
            os._exit(0)
        os.close(begun)
        if turn < mate.kills:
            if turn % 4:  # these die once they fetch, the others perhaps while they open the cache
                os.read(told, 1)
            time.sleep(rng.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
        os.close(told)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            append(mate.log, f"kill {child}\n")
        elif os.waitstatus_to_exitcode(status):
            return os.waitstatus_to_exitcode(status)
    return 0


if __name__ == "__main__":
    sys.exit(run(Mate(**json.loads(sys.argv[1]))))
