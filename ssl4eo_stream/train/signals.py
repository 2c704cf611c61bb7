"""Signals that ask a run to stop: Slurm's, a scheduler's, Ctrl-C."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any


class StopSignals:
    """Remembers signals that ask a run to stop, instead of dying of them.

    One request may arrive several times: Slurm and a terminal reach every process, and torchrun
    passes on what it gets. Only a Ctrl-C well after the first interrupts at once.

    Args:
        grace_seconds: For so long a further Ctrl-C counts as the same one.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def __init__(self, *, grace_seconds: float = 3.0) -> None:
        self.received = 0
        self._grace_seconds = grace_seconds
        self._first_time = 0.0
        self._previous: dict[int, Any] = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if not self.received:
            self.received, self._first_time = number, time.monotonic()
        elif number == signal.SIGINT and self._elapsed() >= self._grace_seconds:
            raise KeyboardInterrupt

    def _elapsed(self) -> float:
        return time.monotonic() - self._first_time

    def __enter__(self) -> "StopSignals":
        self._previous = {number: signal.signal(number, self._remember) for number in self.SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
