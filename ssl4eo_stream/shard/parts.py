"""What is finished at a destination, while its shards are made.

`DEST/.parts/` holds the settings, and a part of the index for every finished shard. The manifest
comes last and makes the data set valid; then the parts go. A build that starts on a finished data
set takes its parts from the index again, and the manifest away, before it touches a shard.
"""

import hashlib
import io
import json
import logging
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.shard.destination import Destination
from ssl4eo_stream.shard.manifest import (
    INDEX,
    MANIFEST,
    Manifest,
    ShardEntry,
    shard_name,
)

PARTS = ".parts"
SETTINGS = "settings.json"
REQUESTS = 16
"""Parts read at a time: on object storage each takes as long as a large read."""
logger = logging.getLogger(__name__)


def prepare(dest: Destination, *, form: Manifest) -> None:
    """Make a destination ready: its settings are ours, its parts tell what is finished.

    Temporary files of a build that was killed go.

    Args:
        dest: Where the shards go.
        form: The manifest to be, without shards.

    Raises:
        ShardError: There are shards of other settings.
        StorageError: It can't be written to.
    """
    dest.make()
    compare(dest, form=form)
    with dest.write(f"{PARTS}/{SETTINGS}") as file:
        file.write(form.to_json())
    if (data := dest.read(MANIFEST)) is not None:
        _parts_from_index(dest, Manifest.from_json(data, url=dest.of(MANIFEST)))
        dest.remove(MANIFEST)
    for inside, prefix in (("", f".{form.product}-"), (PARTS, ".")):
        for name in dest.sizes(inside):
            if name.startswith(prefix) and ".tmp-" in name:
                dest.remove(f"{inside}/{name}" if inside else name)


def drop_others(dest: Destination, product: str, *, numbers: Collection[int]) -> None:
    """Remove finished shards of other numbers: their locations are no longer in the source.

    Raises:
        StorageError: One can't be removed.
    """
    for name in dest.sizes():
        if (number := shard_number(name, product)) is not None and number not in numbers:
            dest.remove(part_name(product, number))
            dest.remove(name)


def compare(dest: Destination, *, form: Manifest) -> None:
    """See whether the shards at a destination, finished or not, are of the same settings.

    Raises:
        ShardError: They are of others.
    """
    begun = any(name.endswith(".tar") for name in {**dest.sizes(), **dest.sizes(PARTS)})
    for name in (MANIFEST, f"{PARTS}/{SETTINGS}"):
        if (name == MANIFEST or begun) and (data := dest.read(name)) is not None:
            there = Manifest.from_json(data, url=dest.of(name))
            _compare(there, form, name=dest.of(name), folder=dest.url)


def _compare(there: Manifest, ours: Manifest, *, name: str, folder: str) -> None:
    fields = (
        "product", "codec", "samples_per_shard", "bands", "dtype", "scale", "offset", "source",
        "dn_offset",
    )  # fmt: skip
    for field in fields:
        if getattr(there, field) != getattr(ours, field):
            raise ShardError(
                f"{name} is of shards with {field} {getattr(there, field)}, and {field} "
                f"{getattr(ours, field)} was asked for. Choose another DEST, ask for the same, or "
                f"remove {folder}."
            )


def _parts_from_index(dest: Destination, manifest: Manifest) -> None:
    """Take a finished data set apart again: a part of the index for every shard."""
    index = dest.read(INDEX)
    if index is None or hashlib.sha256(index).hexdigest() != manifest.index_sha256:
        logger.warning(
            "%s is missing or not the manifest's: every shard is made again.", dest.of(INDEX)
        )
        return
    table = pq.read_table(pa.BufferReader(index))

    def write(entry: ShardEntry) -> None:
        write_part(dest, manifest.product, table.filter(pc.field("shard") == entry.number), entry)

    with ThreadPoolExecutor(REQUESTS) as pool:
        list(pool.map(write, manifest.shards))


def shard_number(name: str, product: str) -> int | None:
    """Return the number of the shard of that file name, or None if it is not a shard's."""
    found = re.fullmatch(rf"{product}-([0-9]{{6,}})\.tar", name)
    return int(found[1]) if found else None


def part_name(product: str, number: int) -> str:
    """Return where a shard's part of the index lies until the manifest is written."""
    return f"{PARTS}/{shard_name(product, number)}.parquet"


def write_part(dest: Destination, product: str, table: pa.Table, entry: ShardEntry) -> None:
    """Write a shard's part of the index; with it, the shard is finished."""
    sink = io.BytesIO()
    fields = json.dumps(vars(entry))
    pq.write_table(table.replace_schema_metadata({"shard": fields}), sink, compression="zstd")
    with dest.write(part_name(product, entry.number)) as file:
        file.write(sink.getvalue())


def read_parts(dest: Destination, product: str) -> dict[int, tuple[pa.Table, ShardEntry]]:
    """Return the parts of the finished shards, by number, in order."""
    sizes = dest.sizes()
    numbers = [
        number
        for name in dest.sizes(PARTS)
        if (number := shard_number(name.removesuffix(".parquet"), product)) is not None
        and shard_name(product, number) in sizes
    ]
    numbers.sort()
    with ThreadPoolExecutor(REQUESTS) as pool:
        found = pool.map(lambda number: dest.read(part_name(product, number)), numbers)
        parts = {number: _part(data) for number, data in zip(numbers, found, strict=True)}
    return {
        number: part
        for number, part in parts.items()
        if part is not None and sizes[shard_name(product, number)] == part[1].bytes
    }


def _part(data: bytes | None) -> tuple[pa.Table, ShardEntry] | None:
    if data is None:
        return None
    try:
        table = pq.read_table(pa.BufferReader(data))
        return table, ShardEntry(**json.loads((table.schema.metadata or {})[b"shard"]))
    except (pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError):
        return None
