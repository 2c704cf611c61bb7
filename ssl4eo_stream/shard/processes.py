"""The processes that read, encode and pack: they end with the one that started them."""

import multiprocessing
import os
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from threading import Thread

from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.shard.pack import ShardDone, ShardTask, pack_shard
from ssl4eo_stream.shard.room import Room, enter


def pack_all(
    tasks: list[ShardTask], *, executor: Executor | None
) -> Generator[ShardDone, None, None]:
    """Pack shards, and yield what became of each as it is done.

    Args:
        tasks: What to pack.
        executor: Who does it; this process if None.

    Raises:
        SourceError: A location is broken and its task doesn't skip such.
        StorageError: A shard can't be written.
        ShardError: A process died.
    """
    if executor is None:
        yield from map(_pack, tasks)
        return
    for future in as_completed([executor.submit(_pack, task) for task in tasks]):
        yield future.result()


class Pool(ProcessPoolExecutor):
    """Processes, and the memory that they share with this one.

    Args:
        workers: How many.
        slots: Parcels that there is room for.
    """

    def __init__(self, workers: int, *, slots: int) -> None:
        context = multiprocessing.get_context("spawn")  # GDAL's threads don't survive a fork
        self.room = Room(context, slots=slots) if slots else None
        self.stop = context.Event()
        shared = self.room.shared if self.room else None
        super().__init__(workers, context, initializer=_start_worker, initargs=(self.stop, shared))


@contextmanager
def worker_pool(workers: int, *, slots: int = 0) -> Iterator[Pool]:
    """Start processes; whoever leaves the block early, by Ctrl-C or an error, ends their work.

    Args:
        workers: How many.
        slots: Parcels that there is to be room for in memory shared with them.

    Raises:
        ShardError: One of them died.
    """
    with Pool(workers, slots=slots) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise ShardError(
                "a worker process died, most likely for want of memory. Run again with fewer "
                "--workers: finished shards are kept."
            ) from error
        finally:
            pool.stop.set()
            pool.shutdown(cancel_futures=True)


_stop: Event | None = None


def stopped() -> bool:
    """Whether the work of this process was called off: it is one of a pool that is at its end."""
    return _stop is not None and _stop.is_set()


def _start_worker(stop: Event, shared: object) -> None:
    """Runs first in a worker: the parent alone answers signals, and says so by an event."""
    global _stop  # noqa: PLW0603 - a pool's initializer has no other way to hand it over
    _stop = stop
    if shared is not None:
        enter(shared)
    signal(SIGINT, SIG_IGN)
    signal(SIGTERM, SIG_IGN)
    Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A parent that is killed tells nobody; its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"
    wait([parent.sentinel])
    os._exit(1)


def _pack(task: ShardTask) -> ShardDone:
    """Pack, in a process of the pool until the parent stops it."""
    return pack_shard(task, stopped=stopped)
