"""An archive's pieces -> one stream of bytes, read ahead."""

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from ssl4eo_stream.store import Store

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RANGE_BYTES = 8 << 20
"""Bytes of one read of the archive."""


class Pieces(io.RawIOBase):
    """The pieces as one file that can only be read on; the next range is fetched meanwhile.

    Args:
        store: Folder that they lie in.
        sizes: Name -> bytes of each, in order.
        on_bytes: Called with the number of bytes that have been read.
    """

    def __init__(
        self, store: Store, sizes: dict[str, int], *, on_bytes: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._store = store
        self._ranges = (
            (name, start, min(start + RANGE_BYTES, size))
            for name, size in sizes.items()
            for start in range(0, size, RANGE_BYTES)
        )
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="archive")
        self._next = self._ask()
        self._data = memoryview(b"")
        self._read, self._on_bytes = 0, on_bytes

    def _ask(self) -> Future[memoryview] | None:
        found = next(self._ranges, None)
        if found is None:
            return None
        name, start, end = found
        return self._ahead.submit(self._store.read_range, name, start=start, end=end)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer as far as the range at hand goes; 0 at the end."""
        if not self._data and self._next is not None:
            self._data = self._next.result()
            self._read += len(self._data)
            self._on_bytes(self._read)
            self._next = self._ask()
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._data))
        target[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def close(self) -> None:
        """Stop reading ahead."""
        self._store.stop()
        self._ahead.shutdown(cancel_futures=True)
        super().close()
