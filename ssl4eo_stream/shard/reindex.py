"""Tars that are there already -> index and manifest: each is read once, and left as it is."""

import hashlib
import json
import logging
import multiprocessing
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pyarrow as pa

from ssl4eo_stream.errors import ShardError, StorageError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.destination import atomic_file
from ssl4eo_stream.shard.form import UNKNOWN_QUALITY
from ssl4eo_stream.shard.manifest import (
    INDEX,
    MANIFEST,
    Manifest,
    index_bytes,
    shard_name,
)
from ssl4eo_stream.shard.parts import PARTS, SETTINGS
from ssl4eo_stream.shard.survey import Survey, survey
from ssl4eo_stream.store import Store
from ssl4eo_stream.tars import find_tars

DEFAULT_SAMPLES_PER_SHARD = 512
MAX_NUMBER = 2**31 - 1
"""Shard numbers are 32-bit."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reindexed:
    """What was made."""

    manifest: Manifest
    """The data set."""
    folder: Path
    """Where its manifest and index were written."""
    ignored: dict[str, tuple[str, ...]]
    """Shard -> its members that belong to no location."""


def reindex(
    url: str,
    *,
    output: Path | None = None,
    product: str | None = None,
    samples_per_shard: int | None = None,
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
    on_start: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[int], None] = lambda _: None,
) -> Reindexed:
    """Make index and manifest of tars, whoever made them and wherever they lie.

    Args:
        url: Their folder, or tars by a pattern in braces; see `tars.find_tars`.
        output: Where index and manifest go; beside the tars if not given, where that is a folder.
        product: Which product it has to be; found by the GeoTIFFs' pages if not given.
        samples_per_shard: Ids per shard of tars that this package wrote; found by names and ids,
            or an older manifest, if not given.
        workers: Processes, each reading a tar; 0 and 1 work in this one.
        options: obstore's configuration.
        on_start: Called once with the bytes to read.
        on_shard: Called after each tar with its bytes.

    Raises:
        ShardError: The tars are damaged, hold something else, or a location twice.
        StorageError: They can't be read, or the output can't be written.
    """
    tars = find_tars(url, options=options)
    folder = output or _folder_of(tars.store)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} can't be made: {error}. Choose another --output.") from error
    old = _old_manifest(tars.store)
    numbers = shard_numbers(list(tars.sizes))
    tasks = [
        _Task(url=tars.url, options=options, name=name, size=size, number=number, product=product)
        for (name, size), number in zip(tars.sizes.items(), numbers, strict=True)
    ]
    on_start(sum(tars.sizes.values()))
    surveys: list[Survey] = []
    for found in _run(tasks, workers=workers):
        surveys.append(found)
        on_shard(found.entry.bytes)
    surveys.sort(key=lambda each: each.entry.number)
    _compare(surveys, url=tars.store.url, old=old)
    manifest, index = _merge(surveys, old=old, samples_per_shard=samples_per_shard)
    with atomic_file(folder / INDEX) as file:
        file.write(index)
    with atomic_file(folder / MANIFEST) as file:
        file.write(manifest.to_json())
    if output is None:
        shutil.rmtree(folder / PARTS, ignore_errors=True)  # the index has what they say
    ignored = {each.entry.name: each.ignored for each in surveys if each.ignored}
    return Reindexed(manifest=manifest, folder=folder, ignored=ignored)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One tar to read."""

    url: str
    """Its folder, credentials and all."""
    options: Mapping[str, Any] | None
    """obstore's configuration."""
    name: str
    """Its file."""
    size: int
    """Its bytes."""
    number: int
    """The shard number that it gets."""
    product: str | None
    """Which product it has to be."""


def _survey(task: _Task) -> Survey:
    store = Store.open(task.url, options=task.options)
    return survey(store, task.name, size=task.size, number=task.number, product=task.product)


def _run(tasks: Sequence[_Task], *, workers: int) -> Iterator[Survey]:
    if workers <= 1:
        yield from map(_survey, tasks)
        return
    context = multiprocessing.get_context("spawn")  # obstore does not survive a fork
    with ProcessPoolExecutor(
        min(workers, len(tasks)),
        context,
        initializer=signal.signal,  # Ctrl-C ends workers without a word; nothing is half done
        initargs=(signal.SIGINT, signal.SIG_DFL),
    ) as pool:
        try:
            yield from pool.map(_survey, tasks)
        except BrokenProcessPool as error:
            raise ShardError(
                "a worker process died, most likely for want of memory. Run again with fewer "
                "--workers."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _folder_of(store: Store) -> Path:
    if not store.is_local:
        raise StorageError(
            f"{store.url} is not a local folder. Give --output DIR for index and manifest, and "
            "upload both to where the shards lie, the manifest last."
        )
    return Path(url2pathname(urlsplit(store.url).path))


def _old_manifest(store: Store) -> dict[str, Any]:
    """Return what an older manifest, of whatever version, says of these shards, if there is one."""
    for name in (MANIFEST, f"{PARTS}/{SETTINGS}"):
        try:
            fields = json.loads(store.read(name))
        except StorageError:
            continue
        except ValueError as error:
            logger.warning("%s/%s is not read: %s.", store.url, name, error)
            continue
        if isinstance(fields, dict):
            return fields
    return {}


def shard_numbers(names: Sequence[str]) -> list[int]:
    """Return shard numbers: the digits before `.tar` if all differ in them, else counted by name.

    >>> shard_numbers(["s2c-000007.tar", "s2c-000003.tar"])
    [7, 3]
    """
    digits = [re.search(r"([0-9]{1,10})\.tar$", name) for name in names]
    numbers = [int(match[1]) if match else MAX_NUMBER + 1 for match in digits]
    if len(set(numbers)) == len(names) and max(numbers) <= MAX_NUMBER:
        return numbers
    order = sorted(names)
    return [order.index(name) for name in names]


def _compare(surveys: Sequence[Survey], *, url: str, old: Mapping[str, Any]) -> None:
    """Stop where tars do not belong together; warn where they are not those of before."""
    first = surveys[0]
    for each in surveys[1:]:
        if each.form != first.form:
            raise ShardError(
                f"{url}/{first.entry.name} holds {first.form.text}, {each.entry.name} "
                f"{each.form.text}. Index each product and type as a data set of its own."
            )
    ids = np.concatenate([each.rows["id"].to_numpy() for each in surveys]).astype(np.int64)
    shards = np.repeat(np.arange(len(surveys)), [each.rows.num_rows for each in surveys])
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(twice):
        at = twice[0]
        a, b = (surveys[int(shards[order[i]])].entry.name for i in (at, at + 1))
        raise ShardError(
            f"{url}: location {location_key(int(ids[order[at]]))} is in {a} and in {b}"
            f"{f', and {len(twice) - 1} more are in two shards' if len(twice) > 1 else ''}. "
            "Each location belongs to one shard."
        )
    hashes = {shard.get("name"): shard.get("sha256") for shard in old.get("shards", ())}
    for each in surveys:
        if hashes.get(each.entry.name, each.entry.sha256) != each.entry.sha256:
            logger.warning(
                "%s/%s is not the one that the older %s lists: it was replaced, or is damaged.",
                url, each.entry.name, MANIFEST,
            )  # fmt: skip


def _merge(
    surveys: Sequence[Survey], *, old: Mapping[str, Any], samples_per_shard: int | None
) -> tuple[Manifest, bytes]:
    """Return the manifest and the bytes of the index."""
    form = surveys[0].form
    same = (old.get("product"), old.get("dtype")) == (form.product, form.dtype)
    table = pa.concat_tables([each.rows.replace_schema_metadata(None) for each in surveys])
    index = index_bytes(table.combine_chunks())
    codec = "+".join(sorted(frozenset().union(*(each.codecs for each in surveys))))
    if codec == UNKNOWN_QUALITY and same:
        codec = old["codec"]
    sizes = _samples_per_shard(surveys, product=form.product)
    if samples_per_shard is not None and samples_per_shard not in sizes:
        follow = f"they follow {sizes.start} to {sizes.stop - 1}" if sizes else "they follow none"
        raise ShardError(
            f"--samples-per-shard is {samples_per_shard}, but the shards' names and ids are not of "
            f"number = id // {samples_per_shard}: {follow}. Leave it out."
        )
    asked = samples_per_shard or (same and old.get("samples_per_shard"))
    manifest = replace(
        form.manifest(),
        codec=codec,
        samples_per_shard=_choose(sizes, asked=asked or DEFAULT_SAMPLES_PER_SHARD),
        locations=table.num_rows,
        patches=len(table["acquisition"].combine_chunks().flatten()),
        shards=tuple(each.entry for each in surveys),
        index_sha256=hashlib.sha256(index).hexdigest(),
    )
    if same and "scale" in old and "offset" in old:
        manifest = replace(manifest, scale=tuple(old["scale"]), offset=tuple(old["offset"]))
    return manifest, index


def _samples_per_shard(surveys: Sequence[Survey], *, product: str) -> range:
    """Return every S for which shards are named as `build` does, number = id // S for all ids."""
    low, high = 1, MAX_NUMBER
    for each in surveys:
        number, ids = each.entry.number, each.rows["id"].to_numpy().astype(np.int64)
        if each.entry.name != shard_name(product, number):
            return range(0)
        low = max(low, int(ids.max()) // (number + 1) + 1)
        high = min(high, int(ids.min()) // number if number else high)
    return range(low, high + 1)


def _choose(sizes: range, *, asked: int) -> int:
    """Return the size asked for, else the smallest power of two, else the smallest; 0 if none."""
    power = 1 << (sizes.start - 1).bit_length() if sizes else 0
    return next((each for each in (asked, power) if each in sizes), sizes.start if sizes else 0)
