"""An unfinished shard: parcels in the order in which they came, to be put in order later.

It is a tar as well. A parcel is its files, `0012345/ACQUISITION/NAME`, and at last a receipt,
`0012345/ACQUISITION/receipt.json`, with the length and CRC-32C of each: what was being written when
a process or its machine died has none, and is cut off by who goes on. A date that came whole is
already encoded (`patch.tif`); of one that came in pieces the source's files are kept until all are
there.
"""

import contextlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.archive import Parcel
from ssl4eo_stream.shard.source import METADATA
from ssl4eo_stream.shard.tar_stream import plain_headers

RECEIPT = "receipt.json"
PATCH = "patch.tif"
"""A date's pixels as shards hold them."""
PROBLEM = "problem.txt"
"""Why a place can't be had: it is left out."""
NO_DATE = "none"
"""Acquisition of a parcel about a place as a whole; gone once a later one has dates."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a parcel's file lies in its unfinished shard."""

    offset: int
    """First byte."""
    length: int
    """Bytes."""
    crc32c: int
    """Its CRC-32C."""


Found = dict[int, dict[str, dict[str, Place]]]
"""Location id -> acquisition -> file -> where it lies."""


def has_pixels(found: Found) -> bool:
    """Return whether an unfinished shard holds more than metadata."""
    return any(
        files.keys() - {METADATA} for location in found.values() for files in location.values()
    )


def append(path: Path, parcel: Parcel) -> None:
    """Write a parcel behind what an unfinished shard holds.

    Raises:
        StorageError: It can't be written.
    """
    folder = f"{location_key(parcel.id)}/{parcel.acquisition}"
    receipt = {name: (len(data), google_crc32c.value(data)) for name, data in parcel.files.items()}
    files = {**parcel.files, RECEIPT: json.dumps(receipt).encode()}
    out = io.BytesIO()
    for name, data in files.items():
        info = tarfile.TarInfo(f"{folder}/{name}")
        info.size = len(data)
        out.write(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        out.write(data)
        out.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    try:
        with path.open("ab") as file:
            file.write(out.getbuffer())
    except OSError as error:
        raise StorageError(
            f"{path} can't be written: {error.strerror or error}. Free space or give permission, "
            "and run the same command again: it goes on where it stopped."
        ) from error


def scan(path: Path) -> Found:
    """Return what an unfinished shard holds, and cut off what has no receipt.

    Raises:
        StorageError: It can't be read.
    """
    found: Found = {}
    end, begun = 0, {}
    try:
        with path.open("rb") as file, contextlib.suppress(tarfile.ReadError):
            for name, offset, size in plain_headers(file):
                folder, _, file_name = name.rpartition("/")
                if file_name != RECEIPT:
                    begun[file_name] = offset
                    continue
                receipt = file.read(size)
                if len(receipt) < size:
                    break
                number, _, acquisition = folder.partition("/")
                if acquisition != NO_DATE:
                    found.get(int(number), {}).pop(NO_DATE, None)
                found.setdefault(int(number), {}).setdefault(acquisition, {}).update(
                    (name, Place(offset=begun[name], length=length, crc32c=crc32c))
                    for name, (length, crc32c) in json.loads(receipt).items()
                )
                end, begun = offset + size, {}
                end += -end % tarfile.BLOCKSIZE
        if end < path.stat().st_size:
            os.truncate(path, end)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error}. Check its permissions.") from error
    return found


def read(path: Path, place: Place) -> bytes:
    """Return a file of an unfinished shard.

    Raises:
        StorageError: It can't be read, or is not what was written.
    """
    try:
        with path.open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.length)
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error}. Check its permissions.") from error
    if google_crc32c.value(data) != place.crc32c:
        raise StorageError(
            f"{path}: what lies at byte {place.offset} is not what was written there. Remove this "
            "file and ended.json beside it, and run the same command again."
        )
    return data
