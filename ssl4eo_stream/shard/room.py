"""Memory that a process shares with its pool: parcels wait there, and are read there.

A parcel through a pipe is copied five times; here the archive is inflated to where the worker
decodes it.
"""

from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from typing import Any, cast

SLOT_BYTES = 1 << 20
"""Room for a parcel: one of Sentinel-2 has 0.8 MB, of Sentinel-1 0.6."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Bytes in the room."""

    start: int
    """First byte."""
    length: int
    """Bytes."""


class Room:
    """Slots that are filled one after the other, and again from the first.

    Whoever fills one must be done with what lay in it, one round before.

    Args:
        context: How the processes of the pool are started.
        slots: How many.
    """

    def __init__(self, context: SpawnContext, *, slots: int) -> None:
        self.shared: Any = context.RawArray("B", slots * SLOT_BYTES)
        self.memory = memoryview(self.shared).cast("B")
        self._slots, self._slot, self._used = slots, 0, 0

    def turn(self) -> None:
        """Go on to the next slot."""
        self._slot, self._used = (self._slot + 1) % self._slots, 0

    def take(self, size: int) -> Slice | None:
        """Return a place in this slot, or None if it is full."""
        if self._used + size > SLOT_BYTES:
            return None
        start = self._slot * SLOT_BYTES + self._used
        self._used += size
        return Slice(start=start, length=size)

    def __getitem__(self, where: Slice) -> memoryview:
        return self.memory[where.start : where.start + where.length]


_memory: memoryview | None = None


def enter(shared: object) -> None:
    """Come into the room that another process made; in a worker, once."""
    global _memory  # noqa: PLW0603 - a pool's initializer has no other way to hand it over
    _memory = memoryview(cast("Any", shared)).cast("B")


def look_up(where: Slice | bytes) -> memoryview | bytes:
    """Return what lies in the room, in a worker; bytes are themselves."""
    if isinstance(where, bytes):
        return where
    assert _memory is not None, "the pool has a room"
    return _memory[where.start : where.start + where.length]
