"""Batches in shared memory: a fixed ring of slots that workers fill in place, used again.

The memory is an anonymous file that workers inherit by its descriptor: nothing to clean up,
whatever process dies and however. A slot goes back to the ring when nobody refers to its batch any
more.
"""

import mmap
import os
import tempfile
import weakref
from collections import deque

import numpy as np
from jaxtyping import UInt8

ALIGNMENT = 4096
Shape = tuple[int, int, int]


def layout(shapes: tuple[Shape, ...], *, batch_size: int) -> tuple[list[int], int]:
    """Return each view's first byte in a slot, and a slot's size in bytes (whole pages)."""
    starts, end = [], 0
    for shape in shapes:
        starts.append(end)
        end += -(-batch_size * int(np.prod(shape)) // ALIGNMENT) * ALIGNMENT
    return starts, end


def views_of(
    slot: UInt8[np.ndarray, " bytes"], shapes: tuple[Shape, ...], *, batch_size: int
) -> list[UInt8[np.ndarray, "b c _ _"]]:
    """Return a slot's memory as one array per view."""
    starts, _ = layout(shapes, batch_size=batch_size)
    return [
        slot[start : start + batch_size * int(np.prod(shape))].reshape(batch_size, *shape)
        for start, shape in zip(starts, shapes, strict=True)
    ]


def shared_file(num_bytes: int) -> int:
    """Return the descriptor of an anonymous file of so many bytes."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("ssl4eo-batches")
    else:  # macOS: a file that has already lost its name
        with tempfile.TemporaryFile(prefix="ssl4eo-batches") as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, num_bytes)
    return descriptor


def map_file(descriptor: int, num_bytes: int) -> UInt8[np.ndarray, " bytes"]:
    """Return a shared file's memory; it lives as long as the array."""
    return np.frombuffer(mmap.mmap(descriptor, num_bytes), np.uint8)


class Ring:
    """The trainer's side of the slots."""

    def __init__(self, *, slots: int, shapes: tuple[Shape, ...], batch_size: int) -> None:
        self.shapes, self.batch_size = shapes, batch_size
        _, self.slot_bytes = layout(shapes, batch_size=batch_size)
        self.num_bytes = slots * self.slot_bytes
        self.descriptor = shared_file(self.num_bytes)
        self.memory = map_file(self.descriptor, self.num_bytes)
        self._free = deque(range(slots))

    def acquire(self) -> int | None:
        """Return a free slot, or None."""
        try:
            return self._free.popleft()
        except IndexError:
            return None

    def release(self, slot: int) -> None:
        """Give a slot back."""
        self._free.append(slot)

    @property
    def num_free(self) -> int:
        """Slots that nobody uses."""
        return len(self._free)

    def lend(self, slot: int) -> UInt8[np.ndarray, " bytes"]:
        """Return a slot's memory; the slot goes back when the last array over it is gone."""
        start = slot * self.slot_bytes
        lent = self.memory[start : start + self.slot_bytes].view(_Lent)
        finalizer = weakref.finalize(lent, self._free.append, slot)
        finalizer.atexit = False
        return lent

    def copy(self, slot: int) -> UInt8[np.ndarray, " bytes"]:
        """Return a slot's bytes in memory of their own, and give the slot back at once."""
        start = slot * self.slot_bytes
        owned = self.memory[start : start + self.slot_bytes].copy()
        self.release(slot)
        return owned

    def close(self) -> None:
        """Close the descriptor; batches still held stay readable."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class _Lent(np.ndarray):
    """An array whose end can be watched: views of it keep it as their base."""
