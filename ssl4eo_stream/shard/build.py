"""A tree -> a finished data set: what is left to do, who does it, and the manifest at the end."""

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from multiprocessing.synchronize import Event
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from threading import Thread

import pyarrow as pa

from ssl4eo_stream.bands import PRODUCTS, Product, ProductName
from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.sample import location_key, read_ids
from ssl4eo_stream.shard.manifest import (
    INDEX,
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    index_bytes,
)
from ssl4eo_stream.shard.pack import OnMissing, ShardDone, ShardTask, Skipped, pack_shard
from ssl4eo_stream.shard.parts import PARTS, atomic_file, prepare, read_part
from ssl4eo_stream.shard.source import (
    examples,
    list_ids,
    product_folder,
    shard_plan,
    sibling_ids,
)

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
    source: Path,
    dest: Path,
    *,
    product: ProductName,
    codec: str = "jpeg:90",
    samples_per_shard: int = 512,
    workers: int = 1,
    locations: Path | None = None,
    on_missing: OnMissing = "error",
    on_start: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[ShardDone], None] = lambda _: None,
) -> Built:
    """Write the shards of one product, or what is left to write of them.

    Args:
        source: The tree, or the product's folder in it; from the tree, other products count too.
        dest: Where the shards go; made if missing.
        product: Which product.
        codec: How pixels are stored: `jpeg:Q`, `zstd` or `zstd16`.
        samples_per_shard: Ids per shard: shard number = id // this.
        workers: Processes; 0 and 1 work in this one.
        locations: CSV file of the ids to take; all if None.
        on_missing: `error` stops at the first missing or broken location, `skip` leaves such out.
        on_start: Called once with the number of locations to pack.
        on_shard: Called after each shard.

    Raises:
        ValueError: The codec is not known.
        SourceError: The tree is empty, or something in it is missing or broken.
        ShardError: `dest` holds shards of other settings.
        StorageError: `dest` can't be written.
    """
    storage = Codec.parse(codec)
    folder = product_folder(source, product=product)
    ids = list_ids(folder)
    wanted = set(ids) if locations is None else read_ids(locations)
    others = sibling_ids(folder) if folder != source else {}
    if locations is not None:
        others = {name: theirs & wanted for name, theirs in others.items()}
    absent = _absent(folder, ids=set(ids), wanted=wanted, others=others, on_missing=on_missing)
    plan = shard_plan(wanted & set(ids), samples_per_shard=samples_per_shard)
    if not plan:
        raise SourceError(
            f"{folder} holds no location to pack: {len(ids)} folders are named by an id of 6 or 7 "
            f"digits, {len(wanted)} were asked for. Give the folder that holds {product}/."
        )
    form = _form(PRODUCTS[product], codec=storage, samples_per_shard=samples_per_shard)
    prepare(dest, form=form, plan=plan)
    finished = {
        number: part
        for number, members in plan.items()
        if (part := read_part(dest, product, number))
        and part[0]["id"].to_pylist() == [location_key(i) for i in members]
    }
    tasks = [
        ShardTask(
            number=number,
            source=folder,
            folders={i: ids[i] for i in members},
            dest=dest,
            product=product,
            codec=storage,
            on_missing=on_missing,
        )
        for number, members in plan.items()
        if number not in finished
    ]
    on_start(sum(len(task.folders) for task in tasks))
    done: list[ShardDone] = []
    with closing(_run(tasks, workers=workers)) as shards:
        for shard in shards:
            done.append(shard)
            on_shard(shard)
    skipped = absent + [item for shard in done for item in shard.skipped]
    empty = {shard.number for shard in done if not shard.locations}
    manifest = _finish(dest, form=form, numbers=set(plan) - empty, skipped=skipped)
    return Built(
        manifest=manifest,
        built=sum(shard.locations > 0 for shard in done),
        kept=len(finished),
        skipped=tuple(sorted(skipped, key=lambda item: item.id)),
        bytes_read=sum(shard.bytes_read for shard in done),
    )


def _absent(
    folder: Path,
    *,
    ids: set[int],
    wanted: set[int],
    others: dict[str, set[int]],
    on_missing: OnMissing,
) -> list[Skipped]:
    """Ids that were asked for, or that another product of the tree has, and this one lacks."""
    reasons = dict.fromkeys(wanted - ids, "not in the source")
    for name, theirs in others.items():
        if alone := (ids & wanted) - theirs:
            logger.warning(
                "%s lacks %d locations that %s has, training on both will leave them out: %s",
                *(folder.parent / name, len(alone), folder, examples(alone)),
            )
        reasons |= dict.fromkeys(theirs - ids, f"only in {name}")
    if reasons:
        text = (
            f"{folder} lacks {len(reasons)} locations that were asked for or that another product "
            f"has: {examples(reasons)}."
        )
        if on_missing == "error":
            raise SourceError(f"{text} Download them, or go on with --on-missing skip.")
        logger.warning("%s They are left out.", text)
    return [Skipped(id=location_key(i), reason=reason) for i, reason in sorted(reasons.items())]


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


def _run(tasks: list[ShardTask], *, workers: int) -> Generator[ShardDone, None, None]:
    if workers <= 1:
        yield from (pack_shard(task, stopped=lambda: False) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")  # GDAL's threads don't survive a fork
    stop = context.Event()
    with ProcessPoolExecutor(
        min(workers, max(1, len(tasks))), context, initializer=_start_worker, initargs=(stop,)
    ) as pool:
        try:
            for future in as_completed([pool.submit(_pack_in_worker, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool as error:
            raise ShardError(
                "a worker process died, most likely for want of memory. Run again with fewer "
                "--workers: finished shards are kept."
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


_stop: Event | None = None


def _start_worker(stop: Event) -> None:
    """Runs first in a worker: the parent alone answers signals, and says so by an event."""
    global _stop  # noqa: PLW0603 - a pool's initializer has no other way to hand it over
    _stop = stop
    signal(SIGINT, SIG_IGN)
    signal(SIGTERM, SIG_IGN)
    Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A parent that is killed tells nobody; its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a worker"
    wait([parent.sentinel])
    os._exit(1)


def _pack_in_worker(task: ShardTask) -> ShardDone:
    assert _stop is not None, "the pool's initializer ran"
    return pack_shard(task, stopped=_stop.is_set)


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
