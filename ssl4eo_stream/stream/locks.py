"""Locks between the processes of one node: one holder at a time, and who is still alive.

All are flocks, which the kernel takes back when a process ends, however it ends, and which hold
between containers that share a folder. No wait is without an end: a holder can be stopped (SIGSTOP,
a debugger) for as long as it likes.
"""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_SECONDS = 10.0
"""Longest wait for a lock; it is held for milliseconds, unless its holder was stopped."""


def try_lock(descriptor: int) -> bool:
    """Take a file's lock, if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Lock:
    """One holder at a time among all threads of all processes that name the same file.

    Args:
        path: The file; made if it is not there, and always empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._descriptor = -1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            TimeoutError: Somebody else held it all the time.
        """
        deadline = time.monotonic() + LOCK_SECONDS
        late = f"{self._path} has been held by another for {LOCK_SECONDS:.0f} s"
        if not self._mutex.acquire(timeout=LOCK_SECONDS):
            raise TimeoutError(late)
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            pause = 0.0001
            while not try_lock(self._descriptor):
                if time.monotonic() > deadline:
                    raise TimeoutError(late)
                time.sleep(pause)
                pause = min(2 * pause, 0.01)
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def close(self) -> None:
        """Let go of the file; the next use opens it again. Also what a forked child must do."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._mutex = threading.Lock()  # in a child, a thread that is not there may hold the old


class Owners:
    """Numbers from 1 for those who use a folder, and which of them are alive.

    Whoever has number k holds the lock of the file `k`, for as long as its process lives.

    Args:
        folder: Where the files lie, always empty ones; made when the first number is taken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor = -1
        self.mine = 0

    def enrol(self) -> bool:
        """Take the lowest number that no living process has as `mine`; False if we have one."""
        if self._descriptor >= 0:
            return False
        self._folder.mkdir(exist_ok=True)
        number = 0
        while self._descriptor < 0:
            number += 1
            descriptor = os.open(self._folder / str(number), os.O_RDWR | os.O_CREAT, 0o666)
            if try_lock(descriptor):
                self._descriptor, self.mine = descriptor, number
            else:
                os.close(descriptor)
        return True

    def is_alive(self, number: int) -> bool:
        """Whether the process of a number lives."""
        if number == self.mine:
            return True
        try:
            descriptor = os.open(self._folder / str(number), os.O_RDWR)
        except (
            OSError
        ):  # deleted by hand, or too many open files: who takes the number will settle it
            return True
        try:
            return not try_lock(descriptor)
        finally:
            os.close(descriptor)

    def anyone_alive(self) -> bool:
        """Whether a process that is not us uses the folder."""
        if not self._folder.is_dir():
            return False
        numbers = (int(path.name) for path in self._folder.iterdir())
        return any(number != self.mine and self.is_alive(number) for number in numbers)

    def close(self) -> None:
        """Give the number back; in a forked child, leave it to the parent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self.mine = -1, 0
