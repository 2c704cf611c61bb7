"""Bad shards -> the same, built again from their source, as a small data set beside the others."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from ssl4eo_stream.bands import ProductName
from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.shard.archive import is_archive
from ssl4eo_stream.shard.build import SKIPPED, build
from ssl4eo_stream.shard.listing import STAGING
from ssl4eo_stream.shard.manifest import MANIFEST, Manifest
from ssl4eo_stream.shard.pack import OnMissing, ShardDone
from ssl4eo_stream.shard.source import list_ids, product_folder
from ssl4eo_stream.shard.verify import Verified


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How shards are built; what is None is left to the manifest."""

    product: ProductName | None = None
    """Which product."""
    codec: str | None = None
    """How pixels are stored."""
    samples_per_shard: int | None = None
    """Ids per shard."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is told of the work while it goes on."""

    on_bytes: Callable[[int], None] = lambda _: None
    """Called before tars are read with their bytes."""
    on_tar: Callable[[int], None] = lambda _: None
    """Called after each with its bytes."""
    on_read: Callable[[int, int], None] = lambda _done, _size: None
    """Called with the bytes of an archive that have been read, and its size."""
    on_locations: Callable[[int], None] = lambda _: None
    """Called before shards are built with their number of locations."""
    on_shard: Callable[[ShardDone], None] = lambda _: None
    """Called after each."""


def bad_shards(found: Verified) -> str:
    """Say which shards are bad."""
    names = list(found.bad.values())
    if not names:
        return "no shard is bad"
    return f"{len(names)} shards must be made again: {', '.join(names[:5])}" + (
        ", …" if names[5:] else ""
    )


def complete(found: Verified, given: Settings) -> Settings:
    """Return how the shards were built, all of it.

    Raises:
        ShardError: It isn't known, or not what was given, or nothing that `build` would do.
    """
    manifest = found.manifest
    if manifest is None:
        if None in vars(given).values():
            raise ShardError(
                f"{found.url}: {bad_shards(found)}, and there is no manifest of them to say how. "
                "Give --product, --codec and --samples-per-shard as they were built with, or build "
                "the data set anew in another folder."
            )
        return given
    for name, value in vars(given).items():
        if value not in (None, getattr(manifest, name)):
            flag = name.replace("_", "-")
            raise ShardError(
                f"--{flag} is {value}, but {found.url}/{MANIFEST} says {getattr(manifest, name)}. "
                "Leave it out."
            )
    try:
        Codec.parse(manifest.codec)
        if not manifest.samples_per_shard:
            raise ValueError("shard numbers follow no rule")
    except ValueError as error:
        raise ShardError(
            f"{found.url}: {bad_shards(found)}, but ssl4eo-shard build did not make them: {error}. "
            "Copy them again from where they came from, and run ssl4eo-shard verify."
        ) from error
    return Settings(
        product=cast("ProductName", manifest.product),
        codec=manifest.codec,
        samples_per_shard=manifest.samples_per_shard,
    )


def staging_folder(folder: Path, source: str, settings: Settings) -> Path:
    """Return the folder for shards made of this source in this way."""
    text = f"{source if '://' in source else Path(source).absolute()} {settings}"
    return folder / f"{STAGING}{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def rebuild(
    source: str,
    staging: Path,
    *,
    found: Verified,
    settings: Settings,
    workers: int,
    watch: Watch,
) -> Manifest:
    """Build the bad shards, or what is left to build of them.

    Args:
        source: Tree or archive.
        staging: Folder for them, from `staging_folder`.
        found: What is wrong.
        settings: How they were built, all of it.
        workers: Processes; 0 and 1 work in this one.
        watch: Told how far the work is.

    Raises:
        SourceError: The source lacks a location, or it is broken.
        ShardError: The source has less than the manifest says.
        StorageError: Something can't be read or written.
    """
    product, codec, size = settings.product, settings.codec, settings.samples_per_shard
    assert product is not None, "complete"
    assert codec is not None, "complete"
    assert size is not None, "complete"
    if (built := _finished(staging, found)) is not None:
        return built
    ids, on_missing = _wanted(found, source, product=product, samples_per_shard=size)
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch) / "ids.csv"
        listed.write_text("".join(f"{number}\n" for number in sorted(ids)))
        try:
            built = build(
                source, staging, product=product, codec=codec, samples_per_shard=size,
                workers=workers, locations=listed, on_missing=on_missing, on_read=watch.on_read,
                on_start=watch.on_locations, on_shard=watch.on_shard,
            ).manifest  # fmt: skip
        except SourceError as error:
            raise SourceError(
                f"{source} does not give {', '.join(found.bad.values())}, so that no shard was "
                f"changed: {error}"
            ) from error
    entries = {entry.number: entry for entry in built.shards}
    before = {entry.number: entry for entry in found.manifest.shards} if found.manifest else {}
    for number, name in found.bad.items():
        has = entries[number].locations if number in entries else 0
        expected = before[number].locations if number in before else max(has, 1)
        if has != expected:
            shutil.rmtree(staging)
            raise ShardError(
                f"{source} has {has} locations for {name}, where {expected} belong. Give the "
                "source that it was built from; nothing was changed."
            )
    return built


def _finished(staging: Path, found: Verified) -> Manifest | None:
    """Return what an earlier run has built but not put in its place, if that is all of it."""
    there = staging / MANIFEST
    if not there.exists():
        return None
    built = Manifest.from_json(there.read_bytes(), url=str(there))
    if found.bad.keys() <= {entry.number for entry in built.shards}:
        return built
    shutil.rmtree(staging)  # others are bad now
    return None


def _wanted(
    found: Verified, source: str, *, product: ProductName, samples_per_shard: int
) -> tuple[set[int], OnMissing]:
    """Return the locations of the bad shards, and what to do if the source lacks one.

    Without an index to say which these are, they are all that the source has of their range, but
    for those that the build left out.
    """
    if found.index is not None:
        return {*found.index.ids[np.isin(found.index.shards, list(found.bad))].tolist()}, "error"
    ids = {
        number * samples_per_shard + each
        for number in found.bad
        for each in range(samples_per_shard)
    }
    if found.folder is not None and (skipped := found.folder / SKIPPED).exists():
        lines = skipped.read_text(encoding="utf-8").splitlines()
        ids -= {int(json.loads(line)["id"]) for line in lines}
    if is_archive(source):
        return ids, "skip"
    return ids & list_ids(product_folder(Path(source), product=product)).keys(), "error"
