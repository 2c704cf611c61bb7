"""Where shards go: a folder or object storage. Nothing half-written is ever seen there.

In a folder, a file is written under a temporary name and renamed. What goes to object storage is
written to a temporary file of this machine (in TMPDIR) and sent when it is complete: in one request
up to 256 MiB, in parts beyond, which the storage shows as one object after the last of them alone.
"""

import contextlib
import functools
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.retry import RetryPolicy
from ssl4eo_stream.store import Store, as_url
from ssl4eo_stream.tars import list_objects


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A place to write to; travels to the processes that write."""

    url: str
    """Where it lies, without credentials: what messages show."""
    location: str = field(repr=False)
    """Path or URL as it was given."""
    folder: Path | None
    """The same in this machine's file system, if it is there."""

    @classmethod
    def at(cls, location: str | Path) -> "Destination":
        """Return the place at a path or URL; nothing is made there yet.

        Raises:
            StorageError: The URL can't be written to.
        """
        url = as_url(location)
        if url.startswith(("http://", "https://")):
            raise StorageError(
                f"{url.split('?')[0]} can't be written to. Give a path, s3://, gs:// or az://."
            )
        if not url.startswith("file://"):
            return cls(url=_store(url).url, location=url, folder=None)
        folder = Path(url2pathname(urlsplit(url).path))
        return cls(url=str(folder), location=url, folder=folder)

    def make(self) -> None:
        """Make the folder, if it is one and missing.

        Raises:
            StorageError: It can't be made.
        """
        try:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.folder} can't be made: {error.strerror}. Check the path and its "
                "permissions."
            ) from error

    def of(self, name: str) -> str:
        """Return what messages call a file."""
        return f"{self.url}/{name}"

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """Open a file that is there, whole, when all went well, and not at all when not.

        Args:
            name: Its name, `/` between folders.

        Raises:
            StorageError: It can't be written: no space, no permission, no network.
        """
        if self.folder is not None:
            with atomic_file(self.folder / name) as file:
                yield file
            return
        with tempfile.TemporaryFile() as file:
            yield file
            _store(self.location).write(name, file)

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None if there is no such file.

        Raises:
            StorageError: It can't be read.
        """
        if self.folder is not None:
            try:
                return (self.folder / name).read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise StorageError(
                    f"{self.of(name)} can't be read: {error.strerror}. Check its permissions."
                ) from error
        inside, _, own = name.rpartition("/")
        if own not in self.sizes(inside):
            return None
        return _store(self.location).read(name)

    def sizes(self, inside: str = "") -> dict[str, int]:
        """Return the bytes of each file in this very folder, or in a folder inside it.

        Raises:
            StorageError: It can't be listed.
        """
        if self.folder is None:
            return list_objects(_store(self.location), inside=inside)
        try:
            with os.scandir(self.folder / inside) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(
                f"{self.folder / inside} can't be listed: {error.strerror}. Check its permissions."
            ) from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StorageError: It can't be removed.
        """
        if self.folder is None:
            _store(self.location).delete(name)
            return
        try:
            (self.folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{self.of(name)} can't be removed: {error.strerror}. Check its permissions."
            ) from error

    def sweep(self, product: str) -> None:
        """Remove what writers of a product's shards left that were killed, now that all is there.

        Raises:
            StorageError: It can't be removed.
        """
        for path in self.folder.glob(f".{product}-*.tmp-*") if self.folder else ():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(f"{path} can't be removed: {error.strerror}.") from error

    def clear(self, inside: str) -> None:
        """Remove a folder inside this one, with all its files.

        Raises:
            StorageError: An object can't be removed; what a network disk holds on to does no harm.
        """
        if self.folder is not None:
            shutil.rmtree(self.folder / inside, ignore_errors=True)
            return
        for name in self.sizes(inside):
            self.remove(f"{inside}/{name}")


@functools.cache
def _store(location: str) -> Store:
    """Open a store once in a process; what is sent is answered when all of it has come."""
    return Store.open(location, retry=RetryPolicy(stall_seconds=300.0, give_up_seconds=900.0))


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; rename it when all went well, remove it when not.

    Raises:
        StorageError: The file can't be written: no space, no permission.
    """
    own = f"{socket.gethostname()}-{os.getpid()}"  # many machines may share the disk
    temporary = path.with_name(f".{path.name}.tmp-{own}")
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} can't be written: {error.strerror or error}. Free space or give permission, "
            "and run the same command again: finished shards are kept."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
