"""Where batches are filled: in this process, or in workers that share a ring of slots with it.

Both turn passes over epochs into `Rendered`, step by step, one batch of each stream in turn.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.stream.reader import Reader, Samples
from ssl4eo_stream.stream.ring import Ring, Shape, layout, views_of
from ssl4eo_stream.stream.setup import Setup
from ssl4eo_stream.stream.work import Pass
from ssl4eo_stream.stream.worker import Drop, Fill, Filled, Start, Worker

BATCHES_AHEAD = 2
"""Batches that every worker has in hand or in work."""
LEAD_BATCHES = 8
"""With fewer batches left of a pass, a worker hears of the next, and begins to fetch for it."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """One batch."""

    memory: UInt8[np.ndarray, " bytes"]
    """All views, as `ring.layout` places them; a slot of the ring is free once this is."""
    samples: Samples
    """What it shows."""


class InProcess:
    """Reads in the calling process: no workers, for debugging and small jobs."""

    def __init__(self, setup: Setup, *, shapes: tuple[Shape, ...]) -> None:
        self._reader = Reader(setup)
        self._shapes, self._batch_size = shapes, setup.batch_size

    def batches(self, passes: Iterator[Pass]) -> Generator[Rendered]:
        """Yield the batches of pass after pass; each has one stream."""
        _, num_bytes = layout(self._shapes, batch_size=self._batch_size)
        try:
            for each in passes:
                self._reader.add(each.work(0))
                for _ in range(each.first, each.stop):
                    memory = np.empty(num_bytes, np.uint8)
                    out = views_of(memory, self._shapes, batch_size=self._batch_size)
                    samples = self._reader.fill(out)
                    yield Rendered(memory=memory, samples=samples)
                    del memory, out
        finally:
            self._reader.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers: none."""
        return []

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.close()


class Pool:
    """Worker processes and the ring that they fill; they live until `close`.

    Args:
        setup: What workers are told.
        shapes: Each view's (C, H, W).
        workers: How many.
        pin: Locks the ring's pages for a GPU's copies, and returns what undoes that.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        shapes: tuple[Shape, ...],
        workers: int,
        pin: Callable[[np.ndarray], Callable[[], None]] | None = None,
    ) -> None:
        self._setup, self._shapes, self._num_workers = setup, shapes, workers
        self._pin, self._unpin = pin, lambda: None
        self._workers: list[Worker] = []
        self._ring: Ring | None = None
        self._in_flight = [0] * workers
        self._passes: deque[Pass] = deque()  # the one at hand, and the next
        self._begun = [0] * workers  # how many of them each worker has been given
        self._left = [0] * workers  # batches not yet asked for, of those given

    def _start(self) -> Ring:
        # Beside the batches in work, the trainer holds one batch and asks for the next.
        slots = self._num_workers * BATCHES_AHEAD + 2
        ring = Ring(slots=slots, shapes=self._shapes, batch_size=self._setup.batch_size)
        start = Start(
            setup=self._setup, shapes=self._shapes, descriptor=ring.descriptor,
            num_bytes=ring.num_bytes,
        )  # fmt: skip
        if self._pin:
            self._unpin = self._pin(ring.memory)
        self._in_flight = [0] * self._num_workers
        self._workers = [Worker(start) for _ in range(self._num_workers)]
        self._ring = ring
        return ring

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers; none before the first batch is asked for."""
        return [worker.pid for worker in self._workers]

    def batches(self, passes: Iterator[Pass]) -> Generator[Rendered]:
        """Yield the batches of pass after pass, step i from worker i % workers.

        A worker that has no more to do in one pass goes on with the next, so that the first batches
        of an epoch lie ready when the last ones of the epoch before it have been taken.

        Raises:
            Exception: Whatever stopped a worker; all of them are ended then.
        """
        ring = self._ring or self._start()
        self._passes = deque([next(passes), next(passes)])
        self._begun, self._left = [0] * self._num_workers, [0] * self._num_workers
        for worker in self._workers:
            worker.send(Drop())
        try:
            while True:
                for _ in range(BATCHES_AHEAD):
                    for number in range(self._num_workers):
                        self._ask(number, ring)
                for step in range(self._passes[0].first, self._passes[0].stop):
                    number = step % self._num_workers
                    filled = self._receive(number)
                    # A trainer that keeps batches gets memory of its own; the ring must go round.
                    spare = ring.num_free + sum(self._in_flight)
                    lend = ring.lend if spare >= self._num_workers * BATCHES_AHEAD else ring.copy
                    rendered = Rendered(memory=lend(filled.slot), samples=filled.samples)
                    self._ask(number, ring)
                    yield rendered
                    del rendered
                self._passes.popleft()
                self._passes.append(next(passes))
                self._begun = [begun - 1 for begun in self._begun]
        except GeneratorExit:
            self._drain(ring)
            raise
        except BaseException:
            self.close()
            raise

    def _ask(self, number: int, ring: Ring) -> None:
        """Ask a worker for its next batch, of this pass or the next, unless it has enough."""
        if self._in_flight[number] >= BATCHES_AHEAD:
            return
        while self._left[number] < LEAD_BATCHES and self._begun[number] < len(self._passes):
            work = self._passes[self._begun[number]].work(number)
            self._begun[number] += 1
            self._left[number] += len(work) // self._setup.batch_size
            self._workers[number].send(work)
        if self._left[number]:
            slot = ring.acquire()
            assert slot is not None, "at most two slots are lent at a time"
            self._workers[number].send(Fill(slot=slot))
            self._in_flight[number] += 1
            self._left[number] -= 1

    def _receive(self, number: int) -> Filled:
        filled = self._workers[number].receive()
        self._in_flight[number] -= 1
        return filled

    def _drain(self, ring: Ring) -> None:
        """Take back the slots of batches that nobody will ask for."""
        try:
            for number in range(self._num_workers):
                while self._in_flight[number]:
                    ring.release(self._receive(number).slot)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers and let the ring go."""
        workers, self._workers = self._workers, []
        self._in_flight = [0] * self._num_workers
        for worker in workers:
            worker.hang_up()
        for worker in workers:
            worker.wait()
        if self._ring:
            self._unpin()
            self._unpin = lambda: None
            self._ring.close()
            self._ring = None
