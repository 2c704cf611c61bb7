"""A source -> a finished data set: what is left to do, who does it, and the manifest at the end."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from ssl4eo_stream.bands import PRODUCTS, Product, ProductName
from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.sample import location_key, read_ids
from ssl4eo_stream.shard.archive import is_archive
from ssl4eo_stream.shard.manifest import (
    INDEX,
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    index_bytes,
)
from ssl4eo_stream.shard.pack import OnMissing, ShardDone, ShardTask, Skipped
from ssl4eo_stream.shard.parts import (
    PARTS,
    atomic_file,
    compare,
    drop_others,
    prepare,
    read_part,
)
from ssl4eo_stream.shard.processes import pack_all
from ssl4eo_stream.shard.work import Asked, of_archive, of_tree

SKIPPED = "skipped.jsonl"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build did."""

    manifest: Manifest
    """The finished data set."""
    built: int
    """Shards written now."""
    kept: int
    """Shards that were finished before."""
    skipped: tuple[Skipped, ...]
    """Locations left out."""
    bytes_read: int
    """Size of the source files read now."""


def build(
    source: Path | str,
    dest: Path,
    *,
    product: ProductName,
    codec: str = "jpeg:90",
    samples_per_shard: int = 512,
    workers: int = 1,
    locations: Path | None = None,
    on_missing: OnMissing = "error",
    on_read: Callable[[int, int], None] = lambda _done, _size: None,
    on_start: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[ShardDone], None] = lambda _: None,
) -> Built:
    """Write the shards of one product, or what is left to write of them.

    Args:
        source: The tree, or the product's folder in it; from the tree, other products count too.
            Or an archive of it, path or URL: `.tar`, `.tar.gz`, or its pieces by `*`.
        dest: Where the shards go; made if missing.
        product: Which product.
        codec: How pixels are stored: `jpeg:Q`, `zstd` or `zstd16`.
        samples_per_shard: Ids per shard: shard number = id // this.
        workers: Processes; 0 and 1 work in this one.
        locations: CSV file of the ids to take; all if None.
        on_missing: `error` stops at the first missing or broken location, `skip` leaves such out.
        on_read: Called with the bytes of an archive that have been read, and its size.
        on_start: Called once with the number of locations to pack.
        on_shard: Called after each shard.

    Raises:
        ValueError: The codec is not known.
        SourceError: The source is empty, or something in it is missing or broken.
        ShardError: `dest` holds shards of other settings.
        StorageError: `dest` can't be written, or an archive not read.
    """
    storage = Codec.parse(codec)
    form = _form(PRODUCTS[product], codec=storage, samples_per_shard=samples_per_shard)
    wanted = None if locations is None else read_ids(locations)
    asked = Asked(form=form, codec=storage, wanted=wanted, on_missing=on_missing)
    if not is_archive(str(source)):
        work = of_tree(Path(source), asked)
        prepare(dest, form=form)
    elif (dest / MANIFEST).exists():
        return _finished_before(dest, form=form)
    else:
        prepare(dest, form=form)
        work = of_archive(str(source), dest, asked, workers=workers, on_read=on_read)
    numbers = {*work.shards, *work.kept}
    drop_others(dest, product, numbers=numbers)
    finished = {
        number
        for number, members in work.shards.items()
        if (part := read_part(dest, product, number))
        and part[0]["id"].to_pylist() == [location_key(i) for i in members.ids()]
    }
    tasks = [
        ShardTask(
            number=number, locations=members, dest=dest, product=product, on_missing=on_missing
        )
        for number, members in work.shards.items()
        if number not in finished
    ]
    on_start(sum(len(task.locations.ids()) for task in tasks))
    done: list[ShardDone] = []
    with closing(pack_all(tasks, workers=workers)) as shards:
        for shard in shards:
            done.append(shard)
            on_shard(shard)
    skipped = [*work.absent, *(item for shard in done for item in shard.skipped)]
    empty = {shard.number for shard in done if not shard.locations}
    manifest = _finish(dest, form=form, numbers=numbers - empty, skipped=skipped)
    return Built(
        manifest=manifest,
        built=sum(shard.locations > 0 for shard in done),
        kept=len(finished) + len(work.kept),
        skipped=tuple(sorted(skipped, key=lambda item: item.id)),
        bytes_read=sum(shard.bytes_read for shard in done),
    )


def _finished_before(dest: Path, *, form: Manifest) -> Built:
    """What there is to say of a finished data set, whose archive is not read a second time."""
    compare(dest, form=form)
    manifest = Manifest.from_json((dest / MANIFEST).read_bytes(), url=str(dest / MANIFEST))
    logger.warning(
        "%s is finished; the archive is not read again. Remove the folder to start anew.", dest
    )
    return Built(manifest=manifest, built=0, kept=len(manifest.shards), skipped=(), bytes_read=0)


def _form(product: Product, *, codec: Codec, samples_per_shard: int) -> Manifest:
    """The manifest before there are shards: what has to be equal among all of them."""
    raw = codec.keeps_source_values
    return Manifest(
        schema_version=SCHEMA_VERSION,
        product=product.name,
        bands=product.names,
        pages=tuple(tuple(product.names[c] for c in grid.channels) for grid in product.grids),
        codec=str(codec),
        dtype=product.dtype if raw else "uint8",
        scale=tuple(1.0 if raw else band.scale for band in product.bands),
        offset=tuple(0.0 if raw else band.offset for band in product.bands),
        samples_per_shard=samples_per_shard,
        locations=0,
        patches=0,
        shards=(),
        index_sha256="",
    )


def _finish(dest: Path, *, form: Manifest, numbers: set[int], skipped: list[Skipped]) -> Manifest:
    """Merge the parts of the shards, write index and manifest, remove the parts."""
    if not numbers:
        raise SourceError(
            f"none of {len(skipped)} locations could be packed; the first: {skipped[0].reason}"
        )
    parts = [read_part(dest, form.product, number) for number in sorted(numbers)]
    parts = [part for part in parts if part is not None]
    if len(parts) != len(numbers):
        raise ShardError(
            f"{len(numbers) - len(parts)} finished shards have vanished from {dest}: another build "
            "is at work there. Wait for it, and run the same command again."
        )
    table = pa.concat_tables([table.replace_schema_metadata(None) for table, _ in parts])
    index = index_bytes(table.combine_chunks())
    fields = asdict(form) | {
        "locations": table.num_rows,
        "patches": len(table["acquisition"].combine_chunks().flatten()),
        "shards": tuple(entry for _, entry in parts),
        "index_sha256": _sha256(index),
    }
    manifest = Manifest(**fields)
    report = dest / SKIPPED
    report.unlink(missing_ok=True)
    if skipped:
        with atomic_file(report) as file:
            lines = (json.dumps(vars(item), ensure_ascii=False) for item in skipped)
            file.write("".join(f"{line}\n" for line in sorted(lines)).encode())
    with atomic_file(dest / INDEX) as file:
        file.write(index)
    with atomic_file(dest / MANIFEST) as file:
        file.write(manifest.to_json())
    shutil.rmtree(dest / PARTS, ignore_errors=True)  # what a network disk holds on to does no harm
    return manifest


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
