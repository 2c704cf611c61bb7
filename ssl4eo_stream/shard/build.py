"""A source -> a finished data set: what is left to do, who does it, and the manifest at the end."""

import hashlib
import json
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import pyarrow as pa

from ssl4eo_stream.bands import PRODUCTS, Product, ProductName
from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.sample import location_key, read_ids
from ssl4eo_stream.shard.archive import is_archive
from ssl4eo_stream.shard.cluster import Cluster, executor_of
from ssl4eo_stream.shard.destination import Destination
from ssl4eo_stream.shard.gather import SLOTS_EACH
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
    compare,
    drop_others,
    prepare,
    read_parts,
)
from ssl4eo_stream.shard.processes import pack_all
from ssl4eo_stream.shard.v11 import SOURCE
from ssl4eo_stream.shard.work import Asked, Work, of_archive, of_tree, scratch_folder

Release = Literal["v1.0", "v1.1"]
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
    dest: Path | str,
    *,
    product: ProductName,
    codec: str = "jpeg:90",
    samples_per_shard: int = 512,
    workers: int | Cluster = 1,
    locations: Path | None = None,
    scratch: Path | None = None,
    on_missing: OnMissing = "error",
    release: Release = "v1.0",
    dn_offset: Literal[0, 1000] = 0,
    on_read: Callable[[int, int], None] = lambda _done, _size: None,
    on_start: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[ShardDone], None] = lambda _: None,
) -> Built:
    """Write the shards of one product, or what is left to write of them.

    Args:
        source: The tree, or the product's folder in it; from the tree, other products count too.
            Or an archive of it, path or URL: `.tar`, `.tar.gz`, or its pieces by `*`. Of v1.1 a
            folder of tars, a tar, or several by `*` or braces, path or URL.
        dest: Where the shards go: a folder, made if missing, or `s3://`, `gs://`, `az://`.
        product: Which product.
        codec: How pixels are stored: `jpeg:Q`, `zstd` or `zstd16`.
        samples_per_shard: Ids per shard: shard number = id // this.
        workers: Processes of this machine, of which 0 and 1 mean this one; or a cluster, which has
            to see the same `source`, `dest` and `scratch`.
        locations: CSV file of the ids to take; all if None.
        scratch: Folder for the unfinished shards of an archive; in `dest` if None.
        on_missing: `error` stops at the first missing or broken location, `skip` leaves such out.
        release: Release of SSL4EO-S12 that the source is of.
        dn_offset: What v1.1's Sentinel-2 DN are raised by; subtracted.
        on_read: Called with the bytes of an archive that have been read, and its size.
        on_start: Called once with the number of locations to pack.
        on_shard: Called after each shard.

    Raises:
        ValueError: The codec is not known.
        SourceError: The source is empty, or something in it is missing or broken.
        ShardError: `dest` holds shards of other settings.
        StorageError: `dest` can't be written, or an archive not read, or there is no `scratch`
            for an archive that goes to object storage.
    """
    place = Destination.at(dest)
    storage = Codec.parse(codec)
    form = form_of(PRODUCTS[product], codec=storage, samples_per_shard=samples_per_shard)
    if release == "v1.1":
        form = replace(form, source=SOURCE, dn_offset=dn_offset)
    wanted = None if locations is None else read_ids(locations)
    asked = Asked(form=form, codec=storage, wanted=wanted, on_missing=on_missing)
    archived = release != "v1.0" or is_archive(str(source))
    if archived and (data := place.read(MANIFEST)) is not None:
        return _finished_before(place, Manifest.from_json(data, url=place.of(MANIFEST)), form=form)
    unfinished = scratch_folder(place, scratch, form=form) if archived else None
    work = None if archived else of_tree(Path(source).absolute(), asked)
    prepare(place, form=form)
    slots_each = SLOTS_EACH if archived and release == "v1.0" else 0
    with executor_of(workers, slots_each=slots_each) as (executor, at_once):
        if unfinished is not None:
            work = of_archive(
                str(source), place, asked,
                scratch=unfinished, executor=executor, at_once=at_once, on_read=on_read,
            )  # fmt: skip
        assert work is not None, "it is a tree or an archive"
        return pack_work(
            work, place,
            form=form, on_missing=on_missing, executor=executor, on_start=on_start,
            on_shard=on_shard,
        )  # fmt: skip


def pack_work(
    work: Work,
    place: Destination,
    *,
    form: Manifest,
    on_missing: OnMissing,
    executor: Executor | None = None,
    on_start: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[ShardDone], None] = lambda _: None,
) -> Built:
    """Pack what is not packed yet, and finish the data set.

    Args:
        work: What there is to pack.
        place: Where shards go, prepared.
        form: The manifest to be, without shards.
        on_missing: `error` stops at the first broken location, `skip` leaves such out.
        executor: Who packs; this process if None.
        on_start: Called once with the number of locations to pack.
        on_shard: Called after each shard.

    Raises:
        SourceError: Something is missing or broken.
        ShardError: Another build is at work at the same place.
        StorageError: It can't be written.
    """
    product = PRODUCTS[form.product].name
    done: list[ShardDone] = []
    numbers = {*work.shards, *work.kept}
    drop_others(place, product, numbers=numbers)
    finished = _finished(place, work, product=product)
    tasks = [
        ShardTask(
            number=number, locations=members, dest=place, product=product, on_missing=on_missing
        )
        for number, members in work.shards.items()
        if number not in finished
    ]
    on_start(sum(len(task.locations.ids()) for task in tasks))
    with closing(pack_all(tasks, executor=executor)) as shards:
        for shard in shards:
            done.append(shard)
            on_shard(shard)
    skipped = [*work.absent, *(item for shard in done for item in shard.skipped)]
    empty = {shard.number for shard in done if not shard.locations}
    manifest = _finish(place, form=form, numbers=numbers - empty, skipped=skipped)
    work.clear()
    return Built(
        manifest=manifest,
        built=sum(shard.locations > 0 for shard in done),
        kept=len(finished) + len(work.kept),
        skipped=tuple(sorted(skipped, key=lambda item: item.id)),
        bytes_read=sum(shard.bytes_read for shard in done),
    )


def _finished(dest: Destination, work: Work, *, product: ProductName) -> set[int]:
    """Numbers of the shards that are there and hold the very locations that they should."""
    parts = read_parts(dest, product)
    return {
        number
        for number, members in work.shards.items()
        if number in parts
        and parts[number][0]["id"].to_pylist() == [location_key(i) for i in members.ids()]
    }


def _finished_before(dest: Destination, there: Manifest, *, form: Manifest) -> Built:
    """What there is to say of a finished data set, whose archive is not read a second time."""
    compare(dest, form=form)
    logger.warning(
        "%s is finished; the archive is not read again. Remove it to start anew.", dest.url
    )
    return Built(manifest=there, built=0, kept=len(there.shards), skipped=(), bytes_read=0)


def form_of(product: Product, *, codec: Codec, samples_per_shard: int) -> Manifest:
    """Return the manifest before there are shards: what has to be equal among all of them."""
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


def _finish(
    dest: Destination, *, form: Manifest, numbers: set[int], skipped: list[Skipped]
) -> Manifest:
    """Merge the parts of the shards, write index and manifest, remove the parts."""
    if not numbers:
        raise SourceError(
            f"none of {len(skipped)} locations could be packed; the first: {skipped[0].reason}"
        )
    found = read_parts(dest, form.product)
    parts = [found[number] for number in sorted(numbers) if number in found]
    if len(parts) != len(numbers):
        raise ShardError(
            f"{len(numbers) - len(parts)} finished shards have vanished from {dest.url}: another "
            "build is at work there. Wait for it, and run the same command again."
        )
    table = pa.concat_tables([table.replace_schema_metadata(None) for table, _ in parts])
    index = index_bytes(table.combine_chunks())
    fields = asdict(form) | {
        "locations": table.num_rows,
        "patches": len(table["acquisition"].combine_chunks().flatten()),
        "shards": tuple(entry for _, entry in parts),
        "index_sha256": hashlib.sha256(index).hexdigest(),
    }
    manifest = Manifest(**fields)
    if skipped:
        with dest.write(SKIPPED) as file:
            lines = (json.dumps(vars(item), ensure_ascii=False) for item in skipped)
            file.write("".join(f"{line}\n" for line in sorted(lines)).encode())
    else:
        dest.remove(SKIPPED)
    with dest.write(INDEX) as file:
        file.write(index)
    with dest.write(MANIFEST) as file:
        file.write(manifest.to_json())
    dest.clear(PARTS)
    dest.sweep(form.product)
    return manifest
