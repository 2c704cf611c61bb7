"""One door to bytes: `file`, `http(s)`, `s3`, `gs`, `az` through obstore; ranges and retries.

Settings come from the usual environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`) or `storage_options`. A
read that is cut or stalls goes on at the exact byte, counted and logged; obstore's own retries,
which nobody sees, are off. Stores must be opened after a process is started, never before a fork.
"""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import HTTPStore, from_url

from ssl4eo_stream.download import Download, version_of
from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.failure import CUT, Redactor, explain, without_credentials
from ssl4eo_stream.retry import Counters, Progress, Retrier, RetryPolicy

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore

T = TypeVar("T")

ONE_REQUEST_BYTES = 256 << 20
"""Most that is written in one request, which fails or not as a whole. More goes in parts; those of
a process that was killed stay hidden in the bucket until its lifecycle rule removes them."""
PART_BYTES = 32 << 20
"""A part of a larger object; S3 takes 10,000 of them."""
PARTS_AT_ONCE = 4


def as_url(location: str | Path) -> str:
    """Return a URL; what has no scheme is a local path."""
    text = str(location)
    if re.match(r"[a-z][a-z0-9+.-]*://", text):
        return text.rstrip("/")
    return Path(text).expanduser().absolute().as_uri()


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """One object, as its store describes it."""

    size: int
    """Bytes."""
    etag: str
    """What changes when the object does: its ETag, or when it was last modified."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder of objects at a URL; any number of threads may read."""

    url: str
    """Where it lies, without credentials: what messages show."""
    handle: "ObjectStore" = field(repr=False)
    """The obstore client."""
    retrier: Retrier = field(repr=False)
    """Calls reads again; of no meaning to local folders."""
    redact: Redactor = field(repr=False)
    """Takes secrets out of messages."""
    folder: Path | None = None
    """The same in this machine's file system, if it is there."""

    @classmethod
    def open(
        cls,
        location: str | Path,
        *,
        options: Mapping[str, Any] | None = None,
        retry: RetryPolicy | None = None,
    ) -> "Store":
        """Open a store; nothing is read yet.

        Args:
            location: URL of a folder, or a local path.
            options: obstore's configuration of the scheme (for s3 `region`, `endpoint`,
                `skip_signature` for a public bucket, …), over what the environment says.
            retry: How long to wait for it.

        Raises:
            StorageError: The URL, an option, or a local folder does not exist.
        """
        url, retry = as_url(location), retry or RetryPolicy()
        shown, redact = without_credentials(url), Redactor.of(url, options)
        retrier = Retrier(policy=retry, counters=Counters())
        if url.startswith("file://"):
            folder = Path(url2pathname(urlsplit(url).path))
            if not folder.is_dir():
                raise StorageError(f"Cannot open {shown}: there is no such folder. Check the path.")
            if options:
                raise StorageError(f"storage_options have no meaning for the folder {shown}.")
            handle = from_url(url)
            return cls(url=shown, handle=handle, folder=folder, retrier=retrier, redact=redact)
        client: ClientConfig = {
            "allow_http": True,  # an http endpoint is used where one is asked for, never else
            "connect_timeout": timedelta(seconds=retry.connect_seconds),
            "read_timeout": timedelta(seconds=retry.stall_seconds),
            "timeout": timedelta(seconds=retry.attempt_seconds),
        }
        settings: dict[str, Any] = {"config": dict(options)} if options else {}
        handle = _once(
            lambda: from_url(
                url, client_options=client, **settings,
                retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
            ),
            what=f"Cannot open {shown}", redact=redact,
        )  # fmt: skip
        if "?" in url and not isinstance(handle, HTTPStore):
            raise StorageError(
                f"Cannot open {shown}: what follows its question mark has no meaning here. Give a "
                "shared access signature as storage_options={'sas_token': …} instead."
            )
        return cls(url=shown, handle=handle, retrier=retrier, redact=redact)

    @property
    def is_local(self) -> bool:
        """Whether reads come from this machine's file system."""
        return self.folder is not None

    @property
    def counters(self) -> Counters:
        """What was asked of it in this process."""
        return self.retrier.counters

    def read(self, path: str) -> bytes:
        """Return a whole object.

        Raises:
            StorageError: It is not there, or could not be read.
        """
        if not self.is_local:
            return bytes(Download(self, path=path, start=0, end=None).run())
        data = self.once(
            lambda: bytes(obstore.get(self.handle, path).bytes()),
            what=f"Cannot read {self.url}/{path}",
        )
        self.counters.add(requests=1, num_bytes=len(data))
        return data

    def read_range(self, path: str, *, start: int, end: int) -> memoryview:
        """Return the bytes [start, end) of an object.

        Raises:
            StorageError: It is not there, too short, was replaced meanwhile, or could not be read.
        """
        if start == end:
            return memoryview(b"")
        if not self.is_local:
            return memoryview(Download(self, path=path, start=start, end=end).run())
        what = f"Cannot read {self.url}/{path}, bytes {start}-{end}"
        data = memoryview(self.once(lambda: self._read_file(path, start, end), what=what))
        self.counters.add(requests=1, num_bytes=len(data))
        if len(data) != end - start:
            raise StorageError(
                f"{what}: the object ends {end - start - len(data)} bytes early; {CUT}"
            )
        return data

    def _read_file(self, path: str, start: int, end: int) -> bytes:
        """Return bytes of a local file without the client, which takes twice the processor time."""
        if ".." in PurePosixPath(path).parts:
            raise ValueError(f"{path} leaves the folder")
        assert self.folder is not None
        parts: list[bytes] = []
        descriptor = os.open(self.folder / path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while start < end and (part := os.pread(descriptor, end - start, start)):
                parts.append(part)  # one call returns at most 2 GiB, on some file systems less
                start += len(part)
        finally:
            os.close(descriptor)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def head(self, path: str) -> ObjectInfo:
        """Return an object's size and version.

        Raises:
            StorageError: It is not there, or could not be asked for.
        """
        progress = Progress(what=f"{self.url}/{path}", policy=self.retrier.policy)
        found: list[ObjectMeta] = []

        def ask() -> None:
            progress.begin()
            self.counters.add(requests=1)
            found.append(
                self.once(
                    lambda: obstore.head(self.handle, path), what=f"Cannot read {progress.what}"
                )
            )

        self.retrier.run(ask, progress=progress)
        etag, size = version_of(found[0])
        return ObjectInfo(size=size, etag=etag)

    def write(self, path: str, file: BinaryIO) -> None:
        """Write an object, all of a file at once: there is no half object at any time.

        Raises:
            StorageError: It could not be written.
        """
        progress = Progress(what=f"{self.url}/{path}", policy=self.retrier.policy, verb="write")
        in_parts = file.seek(0, os.SEEK_END) > ONE_REQUEST_BYTES

        def send() -> None:
            progress.begin()
            self.counters.add(requests=1)
            file.seek(0)
            self.once(
                lambda: obstore.put(self.handle, path, file, use_multipart=in_parts,
                                    chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE),
                what=f"Cannot write {progress.what}",
            )  # fmt: skip

        self.retrier.run(send, progress=progress)

    def delete(self, path: str) -> None:
        """Remove an object, if it is there.

        Raises:
            StorageError: It could not be removed.
        """
        progress = Progress(what=f"{self.url}/{path}", policy=self.retrier.policy, verb="remove")

        def ask() -> None:
            progress.begin()
            self.counters.add(requests=1)
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self.handle, path)

        what = f"Cannot remove {progress.what}"
        self.retrier.run(lambda: self.once(ask, what=what), progress=progress)

    def stop(self) -> None:
        """Let reads of other threads end at their next failure, instead of trying again."""
        self.retrier.stop()

    def once(self, call: Callable[[], T], *, what: str) -> T:
        """Return what one call of the client returns.

        Raises:
            Passing: It failed, and may go well another time.
            StorageError: It failed.
        """
        return _once(call, what=what, redact=self.redact)


def _once(call: Callable[[], T], *, what: str, redact: Redactor) -> T:
    try:
        return call()
    except (BaseError, ValueError, OSError) as error:
        failure = explain(error, what=what, redact=redact)
    raise failure  # not inside `except`: a traceback would show the client's text, and URLs


def coalesce(
    spans: Sequence[tuple[int, int]], *, gap_bytes: int, limit_bytes: int
) -> list[tuple[int, int]]:
    """Merge spans [start, end), sorted by start, into the ranges worth one request each.

    Args:
        spans: Non-overlapping spans in order.
        gap_bytes: Unwanted bytes between two spans that are cheaper to read than a request.
        limit_bytes: No merged range grows past this; a longer span stays whole.
    """
    ranges: list[tuple[int, int]] = []
    for start, end in spans:
        if ranges and start - ranges[-1][1] <= gap_bytes and end - ranges[-1][0] <= limit_bytes:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((start, end))
    return ranges
