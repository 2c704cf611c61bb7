"""One read from object storage: what came is kept, and the rest is asked for again."""

from typing import TYPE_CHECKING

import obstore

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.failure import CUT, REPLACED
from ssl4eo_stream.retry import Passing, Progress

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta

    from ssl4eo_stream.store import Store

COLLECTED_SHARE = 1 / 8
"""Part of the least that must come in a window (`RetryPolicy`) which the client collects before it
hands bytes over: 160 KiB by default. At every smaller piece Python and the client's threads wait
for each other, which costs more processor than the bytes themselves. What was collected is lost
where an answer breaks off, so from the second attempt on every byte is kept as it comes."""


class Download:
    """Bytes [start, end) of one object, over as many attempts as it takes.

    Args:
        store: Where it lies.
        path: Its name there.
        start: First byte.
        end: Behind the last byte; the object's end if not given.
    """

    def __init__(self, store: "Store", *, path: str, start: int, end: int | None) -> None:
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
        """Return the bytes.

        Raises:
            StorageError: They could not be had.
        """
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
        policy = self._progress.policy
        window_bytes = policy.stall_seconds * policy.min_bytes_per_second
        first = self._progress.attempts == 1
        least = max(1, int(window_bytes * COLLECTED_SHARE)) if first else 1
        chunks = iter(answer.stream(min_chunk_size=least))
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
        version = version_of(meta)
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


def version_of(meta: "ObjectMeta") -> tuple[str, int]:
    """Return what tells an object from its later versions: ETag or time of change, and size."""
    return meta["e_tag"] or meta["last_modified"].isoformat(), meta["size"]
