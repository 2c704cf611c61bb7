"""One door to bytes: `file`, `http(s)`, `s3`, `gs`, `az` through obstore; ranges and retries.

Settings come from the usual environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`) or `storage_options`. A
read that is cut or stalls goes on at the exact byte, counted and logged; obstore's own retries,
which nobody sees, are off. Stores must be opened after a process is started, never before a fork.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import HTTPStore, from_url

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.failure import CUT, REPLACED, Redactor, explain, without_credentials
from ssl4eo_stream.retry import Counters, Passing, Progress, Retrier, RetryPolicy

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta
    from obstore.store import ClientConfig, ObjectStore

T = TypeVar("T")


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
            if not Path(url2pathname(urlsplit(url).path)).is_dir():
                raise StorageError(f"Cannot open {shown}: there is no such folder. Check the path.")
            if options:
                raise StorageError(f"storage_options have no meaning for the folder {shown}.")
            return cls(url=shown, handle=from_url(url), retrier=retrier, redact=redact)
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
        return self.url.startswith("file://")

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
            return bytes(_Download(self, path=path, start=0, end=None).run())
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
            return memoryview(_Download(self, path=path, start=start, end=end).run())
        what = f"Cannot read {self.url}/{path}, bytes {start}-{end}"
        data = memoryview(
            self.once(lambda: obstore.get_range(self.handle, path, start=start, end=end), what=what)
        )
        self.counters.add(requests=1, num_bytes=len(data))
        if len(data) != end - start:
            raise StorageError(
                f"{what}: the object ends {end - start - len(data)} bytes early; {CUT}"
            )
        return data

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
        etag, size = _version(found[0])
        return ObjectInfo(size=size, etag=etag)

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


class _Download:
    """Bytes [start, end) of one object, over as many attempts as it takes."""

    def __init__(self, store: Store, *, path: str, start: int, end: int | None) -> None:
        self._store, self._path, self._start, self._end = store, path, start, end
        where = "" if end is None else f", bytes {start}-{end}"
        self._progress = Progress(
            what=f"{store.url}/{path}{where}", policy=store.retrier.policy,
            wanted=None if end is None else end - start,
        )  # fmt: skip
        self._version: tuple[str, int] | None = None
        self._if_match: str | None = None
        self._chunks: list[bytes] = []

    def run(self) -> bytes:
        """Return the bytes."""
        self._store.retrier.run(self._attempt, progress=self._progress)
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)

    def _attempt(self) -> None:
        before = self._progress.received
        self._progress.begin()
        try:
            self._store.once(self._receive, what=f"Cannot read {self._progress.what}")
        finally:
            self._store.counters.add(requests=1, num_bytes=self._progress.received - before)

    def _receive(self) -> None:
        """Ask for what is missing, and keep all that comes."""
        begin = self._start + self._progress.received
        options: GetOptions = {}
        if self._end is not None:
            options["range"] = (begin, self._end)
        if self._if_match:
            options["if_match"] = self._if_match
        answer = obstore.get(self._store.handle, self._path, options=options)
        self._check(answer)
        chunks = iter(answer.stream(min_chunk_size=1))  # every byte that comes is kept
        while self._progress.received < (self._progress.wanted or 0):
            chunk = next(chunks, None)
            if chunk is None:
                raise Passing("the answer was shorter than announced")
            self._chunks.append(chunk)
            self._progress.add(len(chunk))
        if self._progress.received > (self._progress.wanted or 0):
            raise StorageError(
                f"Cannot read {self._progress.what}: the server sent {self._progress}; "
                "it does not count ranges as HTTP says. Serve the shards with another one."
            )

    def _check(self, answer: "GetResult") -> None:
        """Hold the answer's headers against what was asked for.

        Raises:
            StorageError: The object is too short, or another one than at the first attempt.
        """
        meta = answer.meta
        version = _version(meta)
        if self._version is None:
            self._version = version
            etag = meta["e_tag"]
            self._if_match = etag if etag and not etag.startswith("W/") else None
        elif version != self._version:
            raise StorageError(f"Cannot read {self._progress.what}: {REPLACED}")
        stop = answer.range[1]
        if self._end is None:
            self._end, self._progress.wanted = stop, stop - self._start
        if stop < self._end:
            raise StorageError(
                f"Cannot read {self._progress.what}: the object ends {self._end - stop} bytes "
                f"early; {CUT}"
            )


def _version(meta: "ObjectMeta") -> tuple[str, int]:
    """Return what tells an object from its later versions: ETag or time of change, and size."""
    return meta["e_tag"] or meta["last_modified"].isoformat(), meta["size"]


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
