"""The cache's slots: who fills which, which block lies where, and what is thrown out.

Four rules make every interruption safe:

- A slot with an owner is being filled: it belongs to that process alone and nobody reads it. Slots
  of dead owners are free.
- Slots are given out under one lock; who waits too long for it does without the cache.
- Filling, publishing, reading and noting the time of use take no lock: the owner is the first word
  written of a slot that was given out, and the last of one that was filled or let go.
- Each record has a CRC-32C over the object's digest, the block's number and the bytes. A reader
  checks its own copy, so it sees neither torn bytes nor those of another block, even where the slot
  was given away while it read, or where the machine lost power.
"""

import logging
import os
import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.stream.locks import Lock, Owners
from ssl4eo_stream.stream.slot_files import open_files, refuse_foreign, slots_within, write_all

FILLING = np.iinfo(np.int64).max

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Key:
    """One version of one object, as the table knows it."""

    name: str
    """Its URL, for messages."""
    size: int
    """Its bytes."""
    digest: bytes
    """SHA-256 of all that tells it from other objects and from its own other versions."""

    @property
    def identity(self) -> np.uint64:
        """The table's word for it; 0 is nobody's."""
        return np.uint64(int.from_bytes(self.digest[:8], "little") or 1)

    def crc32c(self, block: int, data: UInt8[np.ndarray, " n"]) -> int:
        """Return the checksum that ties bytes to this object and block."""
        seed = google_crc32c.value(self.digest + block.to_bytes(8, "little"))
        return google_crc32c.extend(seed, data)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who fetches which of the blocks asked for; those in neither field find no room."""

    slots: dict[int, int]
    """Block -> the slot that the caller is to fill or release."""
    others: set[int]
    """Blocks that others are filling, or have filled since."""
    evictions: int
    """Blocks that had to go."""


class Slots:
    """The slots of one folder, as one process sees them; any number of threads may call.

    Args:
        folder: Where the files lie; made if it is not there.
        limit_bytes: Most bytes of all files together.
        block_bytes: Bytes of a slot.

    Raises:
        StorageError: The folder cannot be written or locked, is not a cache of this version, or
            is in use with other sizes.
    """

    def __init__(self, folder: Path, *, limit_bytes: int, block_bytes: int) -> None:
        self.count = slots_within(limit_bytes, block_bytes=block_bytes)
        self.block_bytes = block_bytes
        self.folder = folder
        self._lock = Lock(folder / "lock")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            refuse_foreign(folder, locked=False)  # before anything is made there
            with ExitStack() as undo:
                undo.callback(self._lock.close)
                with self._lock.held():
                    refuse_foreign(folder, locked=True)
                    self._owners = Owners(folder / "owners")
                    undo.callback(self._owners.close)
                    self._files = open_files(
                        folder, block_bytes=block_bytes, count=self.count, owners=self._owners
                    )
                    self._enrol()
                    self._sweep()
                undo.pop_all()
        except OSError as error:
            raise StorageError(
                f"Cannot keep a cache in {folder}: {error}. "
                "Give a folder on a local disk that this user may write and that has room."
            ) from error

    def missing_room(self) -> int:
        """Return how many bytes the disk lacks for all slots to be filled; 0 if it has them."""
        disk = os.fstatvfs(self._files.data)
        unwritten = self.count * self.block_bytes - os.fstat(self._files.data).st_blocks * 512
        return max(0, unwritten - disk.f_bavail * disk.f_frsize)

    def _enrol(self) -> None:
        if self._owners.enrol():
            self._free(np.flatnonzero(self._files.owner == self._owners.mine))  # its last holder's

    def _sweep(self) -> None:
        """Free what the dead were filling."""
        for number in np.unique(self._files.owner[self._files.owner != 0]).tolist():
            if not self._owners.is_alive(number):
                self._free(np.flatnonzero(self._files.owner == number))

    def _free(self, slots: np.ndarray | int) -> None:
        self._files.identity[slots] = 0
        self._files.used[slots] = 0
        self._files.owner[slots] = 0

    def _victim(self) -> int | None:
        """Return a free slot, else the one used least recently, else None: all are being filled."""
        if not self.count:
            return None
        slot = int(self._files.used.argmin())
        if self._files.owner[slot]:
            self._sweep()
            slot = int(np.where(self._files.owner == 0, self._files.used, FILLING).argmin())
        return None if self._files.owner[slot] else slot

    def find(self, key: Key, blocks: Collection[int]) -> dict[int, int]:
        """Return block -> slot of those of the blocks that are here or being filled."""
        slots = np.flatnonzero(self._files.identity == key.identity)
        numbers = zip(self._files.block[slots].tolist(), slots.tolist(), strict=True)
        return {block: slot for block, slot in numbers if block in blocks}

    def is_filling(self, slot: int) -> bool:
        """Whether a living process is filling a slot."""
        owner = int(self._files.owner[slot])
        return owner != 0 and self._owners.is_alive(owner)

    def claim(self, key: Key, blocks: Collection[int]) -> Claim:
        """Take slots for those blocks that nobody has and nobody is filling.

        Raises:
            OSError: The lock was not to be had (TimeoutError), or there are too many open files.
        """
        slots: dict[int, int] = {}
        evictions = 0
        with self._lock.held():
            self._enrol()
            found = self.find(key, blocks)
            if any(
                self._files.owner[slot] and not self.is_filling(slot) for slot in found.values()
            ):
                self._sweep()
                found = self.find(key, blocks)
            for block in sorted(set(blocks) - set(found)):
                slot = self._victim()
                if slot is None:
                    break
                evictions += int(self._files.identity[slot] != 0)
                self._files.owner[slot] = self._owners.mine
                self._files.used[slot] = FILLING
                self._files.identity[slot] = 0
                self._files.block[slot] = block
                self._files.identity[slot] = key.identity
                slots[block] = slot
        return Claim(slots=slots, others=set(found), evictions=evictions)

    def fill(self, slot: int, key: Key, block: int, data: UInt8[np.ndarray, " n"]) -> None:
        """Write the bytes of a claimed block and show them to everybody.

        Raises:
            OSError: They could not be written; the slot is still the caller's.
        """
        write_all(self._files.data, data.data, at=slot * self.block_bytes)
        self._files.crc[slot] = key.crc32c(block, data)
        self._files.used[slot] = time.time_ns()
        self._files.owner[slot] = 0

    def release(self, slot: int) -> None:
        """Give back a claimed slot that was not filled."""
        self._free(slot)

    def read(self, slot: int, key: Key, block: int, *, into: UInt8[np.ndarray, " n"]) -> bool:
        """Read a block whole and note the use; False if the slot does not hold it (any more)."""
        crc = int(self._files.crc[slot])
        if not self._holds(slot, key, block, crc):
            return False
        try:
            count = os.preadv(self._files.data, [into.data], slot * self.block_bytes)
            reason = f"only {count} of its {len(into)} bytes are there"
            if count == len(into):
                if key.crc32c(block, into) == crc:
                    self._files.used[slot] = time.time_ns()
                    return True
                reason = "its CRC-32C is not its record's"
        except OSError as error:
            reason = str(error)
        if self._holds(slot, key, block, crc):  # else it was given away meanwhile
            logger.warning(
                "%s: the copy of block %d of %s is damaged (%s); it is fetched again",
                self.folder / "blocks", block, key.name, reason,
            )  # fmt: skip
            self.drop(key, {block})
        return False

    def _holds(self, slot: int, key: Key, block: int, crc: int) -> bool:
        files = self._files
        now = (files.identity[slot], files.block[slot], files.crc[slot], files.owner[slot])
        return now == (key.identity, block, crc, 0)

    def drop(self, key: Key, blocks: Collection[int]) -> None:
        """Forget those of the blocks that are here; in vain where the lock is not to be had."""
        try:
            with self._lock.held():
                for slot in self.find(key, blocks).values():
                    if not self._files.owner[slot]:
                        self._free(slot)
        except OSError as error:
            logger.warning("blocks of %s stay in the cache for now: %s", key.name, error)

    def let_go(self) -> None:
        """Leave locks and number to the parent, in a forked child; take new ones at next use."""
        self._lock.close()
        self._owners.close()

    def close(self) -> None:
        """Free the number and the descriptors; no call may be running, nor follow."""
        self.let_go()
        os.close(self._files.data)
