"""A loader worker: a process of its own that fills slots of the ring.

It is started afresh rather than forked (obstore hangs in a child forked after use) and without the
user's main module, so that neither torch nor the training script is imported here, and a script
needs no `if __name__ == "__main__"` guard for the loader's sake.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from ssl4eo_stream.stream.clock import IDLE, Clock
from ssl4eo_stream.stream.reader import Reader, Samples
from ssl4eo_stream.stream.ring import Shape, layout, map_file, views_of
from ssl4eo_stream.stream.setup import Setup
from ssl4eo_stream.stream.work import Work

COMMAND = f"from {__name__} import main; main()"
IGNORED_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")
"""Slurm and terminals signal the whole group; a worker ends when its trainer closes the pipe."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """First message to a worker."""

    setup: Setup
    """What to read and how."""
    shapes: tuple[Shape, ...]
    """Each view's (C, H, W)."""
    descriptor: int
    """The ring's file."""
    num_bytes: int
    """Size of the ring."""


@dataclass(frozen=True, kw_only=True)
class Fill:
    """Ask a worker for its next batch in a slot."""

    slot: int
    """Slot of the ring to fill."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Tell a worker to forget all work."""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A worker's answer."""

    slot: int
    """The slot that was asked for."""
    samples: Samples
    """What it holds now."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A worker's last word."""

    error: Exception
    """What stopped it."""
    trace: str
    """Its traceback, for a bug of ours."""


class Worker:
    """The trainer's handle of a worker process."""

    def __init__(self, start: Start) -> None:
        ours, theirs = Pipe()
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        # obstore reads files on dozens of threads; with a heap for each, memory grows for hours
        environment.setdefault("MALLOC_ARENA_MAX", "2")
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(theirs.fileno())],
            pass_fds=(theirs.fileno(), start.descriptor),
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._connection = ours
        self.send(start)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, message: Start | Work | Drop | Fill) -> None:
        """Send a message.

        Raises:
            RuntimeError: The process has died.
        """
        try:
            self._connection.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error

    def receive(self) -> Filled:
        """Wait for the next batch.

        Raises:
            Exception: Whatever stopped the worker, with its traceback as a note.
            RuntimeError: The process has died.
        """
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        if isinstance(answer, Failed):
            answer.error.add_note(f"in a loader worker:\n{answer.trace}")
            raise answer.error
        return answer

    def _died(self) -> RuntimeError:
        code = self._process.wait(timeout=10)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return RuntimeError(
            f"Loader worker {self.pid} {how}. If the machine ran out of memory (dmesg tells), "
            "use fewer workers or a smaller prefetch_bytes."
        )

    def hang_up(self) -> None:
        """Tell the process to end."""
        self._connection.close()

    def wait(self) -> None:
        """Wait for the process to end, at most a few seconds for a read in progress."""
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(connection: Connection) -> None:
    """Fill slots until the trainer closes the pipe."""
    start: Start = connection.recv()
    reader = Reader(start.setup)
    batch_size = start.setup.batch_size
    memory = map_file(start.descriptor, start.num_bytes)
    _, slot_bytes = layout(start.shapes, batch_size=batch_size)
    while True:
        waiting = Clock()
        message: Work | Drop | Fill = connection.recv()
        if isinstance(message, Work):
            reader.add(message)
            continue
        if isinstance(message, Drop):
            reader.close()
            continue
        waiting.lap(IDLE)
        slot = memory[message.slot * slot_bytes : (message.slot + 1) * slot_bytes]
        out = views_of(slot, start.shapes, batch_size=batch_size)
        samples = reader.fill(out)
        samples.clock.add(waiting)
        connection.send(Filled(slot=message.slot, samples=samples))


def main() -> None:
    """Run the process; its only argument is the descriptor of its pipe."""
    import traceback

    import cv2

    cv2.setNumThreads(1)
    for name in IGNORED_SIGNALS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    try:
        serve(connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the trainer is done, or dead
    except Exception as error:  # noqa: BLE001 - whatever it is, the trainer must hear of it
        trace = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - an exception that cannot travel is told as text
            error = RuntimeError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(Failed(error=error, trace=trace))
