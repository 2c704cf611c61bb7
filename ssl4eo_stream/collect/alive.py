"""Which of the processes that share a folder are alive, on this machine or on others.

Each holds the lock of a file of its own, which the kernel takes back when the process ends, however
it ends. A lock that nobody holds means death on the same machine; of another machine that is
believed only once its process has not been heard of for a while, since not every network file
system tells its machines of each other's locks.
"""

import fcntl
import os
import socket
from pathlib import Path
from uuid import uuid4

from ssl4eo_stream.errors import StorageError

SILENT_SECONDS = 600.0
"""How long a process on another machine may not be heard of; it says something every 5 s."""


class Presence:
    """Says that this process is alive, until it is closed or the process ends.

    Args:
        folder: Where the processes that want to know of each other say so; it is there.

    Raises:
        StorageError: Nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        self.host = socket.gethostname()
        self.name = f"{os.getpid()}-{uuid4().hex[:12]}"
        self._folder = folder
        path = self._path(self.name)
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"{path} can't be made and locked: {error.strerror or error}. Name a folder that "
                "is yours, on a file system with locks (on Lustre: mounted with flock)."
            ) from error

    def is_dead(self, name: str, *, host: str, silent_seconds: float) -> bool:
        """Return whether another process has ended.

        Args:
            name: Its name.
            host: Its machine.
            silent_seconds: How long ago it said something.
        """
        if name == self.name:
            return False
        try:
            descriptor = os.open(self._path(name), os.O_RDWR)
        except FileNotFoundError:
            return host == self.host or silent_seconds > SILENT_SECONDS
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return host == self.host or silent_seconds > SILENT_SECONDS

    def forget(self, name: str) -> None:
        """Remove what is left of a process that has ended."""
        self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Be taken for dead from now on."""
        self.forget(self.name)
        os.close(self._descriptor)

    def _path(self, name: str) -> Path:
        return self._folder / f".collect-{name}.lock"
