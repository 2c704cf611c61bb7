"""What is finished in a destination, while its shards are made.

`DEST/.parts/` holds the settings, and a part of the index for every finished shard. The manifest
comes last and makes the data set valid; then the parts go. A build that starts on a finished data
set takes its parts from the index again, and the manifest away, before it touches a shard.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ssl4eo_stream.errors import ShardError, StorageError
from ssl4eo_stream.shard.manifest import INDEX, MANIFEST, Manifest, ShardEntry, shard_name

PARTS = ".parts"
SETTINGS = "settings.json"
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; rename it when all went well, remove it when not.

    Raises:
        StorageError: The file can't be written: no space, no permission.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path} can't be written: {error.strerror or error}. Free space or give permission, "
            "and run the same command again: finished shards are kept."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def prepare(dest: Path, *, form: Manifest) -> None:
    """Make a destination ready: its settings are ours, its parts tell what is finished.

    Temporary files of a build that was killed go.

    Args:
        dest: The folder; made if missing.
        form: The manifest to be, without shards.

    Raises:
        ShardError: The folder holds shards of other settings.
        StorageError: The folder can't be written.
    """
    parts = dest / PARTS
    try:
        dest.mkdir(parents=True, exist_ok=True)
        compare(dest, form=form)
        parts.mkdir(exist_ok=True)
        with atomic_file(parts / SETTINGS) as file:
            file.write(form.to_json())
        if (dest / MANIFEST).exists():
            _parts_from_index(dest)
            (dest / MANIFEST).unlink()
        for stale in [*dest.glob(f".{form.product}-*.tar.tmp-*"), *parts.glob(".*.tmp-*")]:
            stale.unlink()
    except OSError as error:
        raise StorageError(
            f"{dest} can't be prepared: {error}. Check the path, its permissions and free space."
        ) from error


def drop_others(dest: Path, product: str, *, numbers: Collection[int]) -> None:
    """Remove finished shards of other numbers: their locations are no longer in the source.

    Raises:
        StorageError: One can't be removed.
    """
    try:
        for tar in dest.glob(f"{product}-*.tar"):
            number = tar.stem.removeprefix(f"{product}-")
            if number.isdecimal() and int(number) not in numbers:
                part_path(dest, product, int(number)).unlink(missing_ok=True)
                tar.unlink()
    except OSError as error:
        raise StorageError(f"{dest} can't be tidied: {error}. Check its permissions.") from error


def compare(dest: Path, *, form: Manifest) -> None:
    """See whether the shards of a folder, finished or not, are of the same settings.

    Raises:
        ShardError: They are of others.
    """
    for path in (dest / MANIFEST, dest / PARTS / SETTINGS):
        if path.exists():
            _compare(Manifest.from_json(path.read_bytes(), url=str(path)), form, path=path)


def _compare(there: Manifest, ours: Manifest, *, path: Path) -> None:
    fields = ("product", "codec", "samples_per_shard", "bands", "dtype", "scale", "offset")
    for name in fields:
        if getattr(there, name) != getattr(ours, name):
            raise ShardError(
                f"{path} is of shards with {name} {getattr(there, name)}, and {name} "
                f"{getattr(ours, name)} was asked for. Choose another DEST, ask for the same, or "
                f"remove {path.parent if path.name == MANIFEST else path.parent.parent}."
            )


def _parts_from_index(dest: Path) -> None:
    """Take a finished data set apart again: a part of the index for every shard."""
    manifest = Manifest.from_json((dest / MANIFEST).read_bytes(), url=str(dest / MANIFEST))
    index = dest / INDEX
    if (
        not index.exists()
        or hashlib.sha256(index.read_bytes()).hexdigest() != manifest.index_sha256
    ):
        logger.warning("%s is missing or not the manifest's: every shard is made again.", index)
        return
    table = pq.read_table(index)
    for entry in manifest.shards:
        rows = table.filter(pc.field("shard") == entry.number)
        write_part(dest, manifest.product, rows, entry)


def part_path(dest: Path, product: str, number: int) -> Path:
    """Return where a shard's part of the index lies until the manifest is written."""
    return dest / PARTS / f"{shard_name(product, number)}.parquet"


def write_part(dest: Path, product: str, table: pa.Table, entry: ShardEntry) -> None:
    """Write a shard's part of the index; with it, the shard is finished."""
    sink = io.BytesIO()
    fields = json.dumps(vars(entry))
    pq.write_table(table.replace_schema_metadata({"shard": fields}), sink, compression="zstd")
    with atomic_file(part_path(dest, product, entry.number)) as file:
        file.write(sink.getvalue())


def read_part(dest: Path, product: str, number: int) -> tuple[pa.Table, ShardEntry] | None:
    """Return a shard's part of the index, or None if the shard is not finished."""
    path = part_path(dest, product, number)
    tar = dest / shard_name(product, number)
    if not path.exists() or not tar.exists():
        return None
    try:
        table = pq.read_table(path)
        entry = ShardEntry(**json.loads((table.schema.metadata or {})[b"shard"]))
    except (pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError):
        return None
    return (table, entry) if tar.stat().st_size == entry.bytes else None
