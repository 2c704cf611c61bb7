"""What takes part in a comparison: a name, how its batches are had, and how fast they come."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

BATCH = 16
"""Samples per batch, for everybody."""
SIZE = 224
"""Side of a view in pixels, for everybody."""

Kind = Literal["ours", "bound", "published", "our decoder and views", "as documented"]
Batch = Sequence[Tensor]
"""One tensor (B, C, 224, 224) per view."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to load a batch."""

    name: str
    """What the table calls it."""
    kind: Kind
    """What it is compared for."""
    views: int
    """2: MoCo's views; 1: MAE's."""
    start: Callable[[int], Generator[Batch, None, None]]
    """Workers (0: in this process) -> batches without end; closing the generator frees them."""
    details: Callable[[], Mapping[str, float]] = dict
    """Further numbers of the slice measured last."""


def endless(loader: Iterable[Any]) -> Iterator[Any]:
    """Yield a loader's batches, epoch after epoch."""
    while True:
        yield from loader


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast batches came."""

    per_second: float
    """Samples by the clock on the wall."""
    per_cpu_second: float
    """Samples by the processor time of this process, all threads: what others on the machine take
    away is not in it. It says nothing of workers."""


def rate_of(batches: Iterator[Batch], *, seconds: float, workers: int) -> Rate:
    """Return the rate at which batches come once everybody has made one.

    Nothing lies ready when the clock starts: a batch is taken as soon as it is there. Batches are
    counted in turns of one per worker, since they come in bursts of that many.

    Args:
        batches: Batches without end.
        seconds: Least time to measure.
        workers: Processes that make them.
    """
    turn = max(workers, 1)
    start, warm = time.perf_counter(), 0
    while warm % turn or not warm or time.perf_counter() - start < seconds / 6:
        next(batches)
        warm += 1
    samples, start, busy = 0, time.perf_counter(), time.process_time()
    while True:
        for _ in range(turn):
            samples += len(next(batches)[0])
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            used = time.process_time() - busy
            return Rate(per_second=samples / elapsed, per_cpu_second=samples / used)
