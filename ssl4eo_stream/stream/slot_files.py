"""The files of a cache on local disk: equal slots in `blocks`, what each of them holds in `table`.

Both have a fixed length, so that they never outgrow the limit, whoever fills them. The table is a
header and five columns, mapped into every process that uses the cache.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.stream.locks import Owners

MAGIC, VERSION = b"ssl4eo-cache", 1
HEADER = struct.Struct("<12sIQQ32x")  # magic, version, bytes of a slot, slots (0: not laid out)
COLUMNS = {"used": "<i8", "identity": "<u8", "block": "<u4", "crc": "<u4", "owner": "<u4"}
RECORD_BYTES = sum(np.dtype(kind).itemsize for kind in COLUMNS.values())


def slots_within(limit_bytes: int, *, block_bytes: int) -> int:
    """Return how many slots a cache has room for.

    Raises:
        ValueError: Not even an empty cache would fit.
    """
    if limit_bytes < HEADER.size or block_bytes < 1:
        raise ValueError(
            f"A cache of {limit_bytes} bytes in blocks of {block_bytes} cannot be: an empty one "
            f"takes {HEADER.size} bytes. Give a larger limit."
        )
    return (limit_bytes - HEADER.size) // (block_bytes + RECORD_BYTES)


@dataclass(frozen=True, kw_only=True)
class Files:
    """An open cache: the descriptor of its blocks, and its table's columns, shared by all."""

    data: int
    """Descriptor of `blocks`."""
    used: Int64[np.ndarray, " n"]
    """When each slot was last used, ns since 1970; 0 free, the largest value being filled."""
    identity: UInt64[np.ndarray, " n"]
    """The object that a slot's block is of; 0 none."""
    block: UInt32[np.ndarray, " n"]
    """Number of the block within its object."""
    crc: UInt32[np.ndarray, " n"]
    """CRC-32C of object, block and bytes."""
    owner: UInt32[np.ndarray, " n"]
    """Who is filling the slot; 0 nobody."""


def open_files(folder: Path, *, block_bytes: int, count: int, owners: Owners) -> Files:
    """Open the files, made or resized if need be; the caller holds the folder's lock.

    Raises:
        StorageError: The cache has another version, or is in use with other sizes.
        OSError: A file cannot be made, opened or written.
    """
    flags = os.O_RDWR | os.O_CREAT
    size = HEADER.size + count * RECORD_BYTES
    with os.fdopen(os.open(folder / "table", flags, 0o666), "r+b", buffering=0) as table:
        header = table.read(HEADER.size)
        if not header.strip(b"\0"):
            header = HEADER.pack(MAGIC, VERSION, block_bytes, 0)
            os.pwrite(table.fileno(), header, 0)
        _, version, *found = HEADER.unpack(header.ljust(HEADER.size, b"\0"))
        if version != VERSION:
            raise StorageError(
                f"The cache in {folder} has format {version}, this program has {VERSION}. "
                "Give another folder, or delete that one."
            )
        fits = found == [block_bytes, count]
        if not fits and owners.anyone_alive():
            raise StorageError(
                f"The cache in {folder} is in use with {found[1]} blocks of {found[0]} bytes, and "
                f"this limit asks for {count} of {block_bytes}. Give all processes of a node the "
                "same limit, or another folder."
            )
        data = os.open(folder / "blocks", flags, 0o666)
        try:
            if not fits or os.fstat(table.fileno()).st_size != size:
                keep = found[1] if found[0] == block_bytes else 0
                _lay_out(table.fileno(), data, block_bytes=block_bytes, count=count, keep=keep)
            mapped = mmap.mmap(table.fileno(), size)
        except OSError:
            os.close(data)
            raise
    return Files(data=data, **_columns(mapped, count, at=HEADER.size))


def _lay_out(table: int, data: int, *, block_bytes: int, count: int, keep: int) -> None:
    """Bring both files to their size; the first `keep` records stay, where there is room.

    Until the header says how many slots there are, the next process starts with an empty table.
    """
    old = os.pread(table, keep * RECORD_BYTES, HEADER.size)
    keep = keep if len(old) == keep * RECORD_BYTES else 0
    new = bytearray(count * RECORD_BYTES)
    before = _columns(old, keep, at=0)
    for name, column in _columns(new, count, at=0).items():
        column[:keep] = before[name][:count]
    os.pwrite(table, HEADER.pack(MAGIC, VERSION, block_bytes, 0), 0)
    full = count * block_bytes
    os.ftruncate(data, min(full, os.fstat(data).st_size))
    os.ftruncate(table, HEADER.size + len(new))
    # Written, not left sparse: a disk without room for the table must say so here, not by the
    # signal that a store into the mapping would raise.
    write_all(table, memoryview(new), at=HEADER.size)
    os.ftruncate(data, full)
    os.pwrite(table, HEADER.pack(MAGIC, VERSION, block_bytes, count), 0)


def _columns(
    buffer: mmap.mmap | bytes | bytearray, count: int, *, at: int
) -> dict[str, np.ndarray]:
    """Return the table's columns, one after another in memory, as arrays over it."""
    columns = {}
    for name, kind in COLUMNS.items():
        columns[name] = np.frombuffer(buffer, kind, count, at)
        at += columns[name].nbytes
    return columns


def write_all(descriptor: int, data: memoryview, *, at: int) -> None:
    """Write bytes at a position of a file, all of them or OSError."""
    while data:
        done = os.pwrite(descriptor, data, at)
        data, at = data[done:], at + done


def refuse_foreign(folder: Path, *, locked: bool) -> None:
    """Raise StorageError where a folder has files, and no table of ours says they are a cache.

    A cache's first file is `lock`, its second `table`, from its first word on; all else comes
    later. Only who holds the lock can tell how far a cache in the making has come.
    """
    names = {entry.name for entry in folder.iterdir()}
    if not locked:
        foreign = bool(names) and "lock" not in names
    else:
        magic = b""
        if "table" in names:
            with (folder / "table").open("rb") as table:
                magic = table.read(len(MAGIC)).strip(b"\0")
        foreign = magic != MAGIC if magic else bool(names - {"lock", "table"})
    if foreign:
        raise StorageError(
            f"{folder} is not a cache but holds {', '.join(sorted(names)[:3])} …: nothing in it "
            "was touched. Give a new or an empty folder."
        )
