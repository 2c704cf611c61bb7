"""Locations -> one tar, the same bytes on any machine, and its part of the index.

A shard is written under a temporary name and renamed, then its part of the index likewise: a shard
is finished when both are there. The tar is POSIX ustar with fixed times and owners.
"""

import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal

from ssl4eo_stream.bands import PRODUCTS, Product, ProductName
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.geotiff import read_pages
from ssl4eo_stream.sample import Location, location_key
from ssl4eo_stream.shard.destination import Destination
from ssl4eo_stream.shard.locations import Locations, Packed
from ssl4eo_stream.shard.manifest import IndexRow, ShardEntry, index_table, shard_name
from ssl4eo_stream.shard.parts import part_name, write_part
from ssl4eo_stream.shard.prefixes import prefixes

OnMissing = Literal["skip", "error"]


class StoppedError(Exception):
    """The build was told to stop in the middle of a shard."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to write."""

    number: int
    """Shard number."""
    locations: Locations
    """What to write."""
    dest: Destination
    """Where the shard goes."""
    product: ProductName
    """Which product."""
    on_missing: OnMissing
    """Whether a broken location is left out, or stops the build."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A location that was left out."""

    id: str
    """Location id, seven digits."""
    reason: str
    """What was wrong with it."""


@dataclass(frozen=True, kw_only=True)
class ShardDone:
    """What became of a task."""

    number: int
    """Shard number."""
    locations: int
    """Locations written."""
    skipped: tuple[Skipped, ...]
    """Locations left out."""
    bytes_read: int
    """Size of all source files read."""


def location_json(location: Location, *, product: Product) -> bytes:
    """Return the `.json` member: where the location is, and what is known of its dates."""
    fields = {
        "id": location.key,
        "product": product.name,
        "lon": location.lon,
        "lat": location.lat,
        "dates": [
            {
                "acquisition": acquisition.name,
                "time": acquisition.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "cloud_percent": acquisition.cloud_percent,
                **acquisition.properties,
            }
            for acquisition in location.acquisitions
        ],
    }
    return (json.dumps(fields) + "\n").encode()


def pack_shard(task: ShardTask, *, stopped: Callable[[], bool]) -> ShardDone:
    """Write one shard and its part of the index.

    Args:
        task: What to write.
        stopped: Asked before every location.

    Raises:
        SourceError: A location is broken and the task doesn't skip such.
        StorageError: The destination can't be written.
        StoppedError: `stopped` said so; nothing is left behind.
    """
    product = PRODUCTS[task.product]
    name = shard_name(task.product, task.number)
    rows: list[IndexRow] = []
    skipped: list[Skipped] = []
    bytes_read = 0
    task.dest.remove(part_name(task.product, task.number))
    with task.dest.write(name) as file:
        writer = _TarWriter(file)
        for number in task.locations.ids():
            if stopped():
                raise StoppedError
            try:
                packed = task.locations.read(number)
            except SourceError as error:
                if task.on_missing == "error":
                    raise
                skipped.append(Skipped(id=location_key(number), reason=str(error)))
                continue
            rows.append(_write_location(writer, packed, product=product, shard=task.number))
            bytes_read += packed.bytes_read
        writer.finish()
    if rows:
        entry = ShardEntry(
            number=task.number,
            name=name,
            locations=len(rows),
            bytes=writer.bytes,
            sha256=writer.sha256.hexdigest(),
        )
        write_part(task.dest, task.product, index_table(rows), entry)
    else:
        task.dest.remove(name)
    task.locations.clear()
    return ShardDone(
        number=task.number, locations=len(rows), skipped=tuple(skipped), bytes_read=bytes_read
    )


def _write_location(
    writer: "_TarWriter", packed: Packed, *, product: Product, shard: int
) -> IndexRow:
    location, members = packed.location, packed.members
    writer.add(f"{location.key}.json", location_json(location, product=product))
    offsets = []
    beginnings = []
    for date, data in enumerate(members):
        name = f"{location.key}.t{date}.tif"
        offsets.append(writer.add(name, data))
        beginnings.append(prefixes(data, pages=read_pages(data, name=name), name=name))
    return IndexRow(
        id=location.key,
        shard=shard,
        lon=location.lon,
        lat=location.lat,
        acquisition=tuple(acquisition.name for acquisition in location.acquisitions),
        time=tuple(acquisition.time for acquisition in location.acquisitions),
        cloud_percent=tuple(acquisition.cloud_percent for acquisition in location.acquisitions),
        member_offset=tuple(offsets),
        member_length=tuple(map(len, members)),
        member_crc32c=tuple(each.crc32c[-1] for each in beginnings),
        page_end=tuple(end for each in beginnings for end in each.ends[:-1]),
        page_crc32c=tuple(crc32c for each in beginnings for crc32c in each.crc32c[:-1]),
    )


class _TarWriter:
    """Members one after another; knows where each one went, and the hash of it all."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its first byte."""
        info = tarfile.TarInfo(name)  # mtime 0, owner 0, mode 0644 are its defaults
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        offset = self.bytes
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset

    def finish(self) -> None:
        """Append the two empty blocks that end a tar, and fill the last record."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.bytes % tarfile.RECORDSIZE))

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.sha256.update(data)
        self.bytes += len(data)
