"""Make again what `verify` finds wrong: shards from their source, manifest and index from shards.

Shards are built in a folder of their own, `.repair-…`, as a small data set, and take the place of
the bad ones when all of them are there. Good shards are not touched, and nothing is removed before
there is what replaces it, so it can be stopped anywhere and run again.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from ssl4eo_stream.errors import ShardError, StorageError
from ssl4eo_stream.shard.destination import atomic_file
from ssl4eo_stream.shard.listing import STAGING
from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.shard.rebuild import (
    Settings,
    Watch,
    bad_shards,
    complete,
    rebuild,
    staging_folder,
)
from ssl4eo_stream.shard.reindex import reindex
from ssl4eo_stream.shard.verify import Verified, verify

ASIDE = ".unlisted"
"""What is put behind the names of tars that are not of the data set."""
COPY_BYTES = 1 << 20
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What was done."""

    found: Verified
    """What was wrong."""
    folder: Path
    """Where everything was written."""
    rebuilt: tuple[str, ...]
    """Shards made again."""
    changed: tuple[str, ...]
    """Those of them that are not, byte for byte, what the manifest says."""
    reindexed: bool
    """Whether manifest and index were made again."""
    needs_index: bool
    """Whether they are to be made again once the shards are uploaded."""
    left: Verified
    """What is wrong now: what was, where the data set is not in a local folder."""


def repair(
    url: str | Path,
    *,
    source: str | None = None,
    output: Path | None = None,
    settings: Settings | None = None,
    workers: int = 1,
    watch: Watch | None = None,
) -> Repaired:
    """Verify a data set, and mend it.

    Args:
        url: Its folder.
        source: Tree or archive that it was built from; needed where shards are bad.
        output: Where to put what is made again; needed where `url` is not a local folder, and of no
            use where it is.
        settings: How its shards were built, where there is no manifest to tell.
        workers: Processes; 0 and 1 work in this one.
        watch: Told how far the work is.

    Raises:
        ShardError: Something is not given, or can't be mended; nothing was changed.
        SourceError: The source lacks something; nothing was changed.
        StorageError: Something can't be read or written.
    """
    watch, settings = watch or Watch(), settings or Settings()
    found = verify(url, workers=workers, on_start=watch.on_bytes, on_shard=watch.on_tar)
    folder = found.folder or output
    if folder is None:
        raise StorageError(
            f"{found.url} is not a local folder; {bad_shards(found)}. Give --output DIR for what "
            "is made again, and upload that."
        )
    if folder != output and output is not None:
        raise StorageError(f"{folder} is mended where it is. Leave --output out.")
    changed: tuple[str, ...] = ()
    if found.bad:
        known = complete(found, settings)
        if source is None:
            raise ShardError(
                f"{found.url}: {bad_shards(found)}. Give --source SRC, the tree or archive that "
                "they were built from."
            )
        staging = staging_folder(folder, source, known)
        built = rebuild(source, staging, found=found, settings=known, workers=workers, watch=watch)
        changed = _install(staging, built, folder, found=found)
    if found.folder is not None:
        _tidy(folder, found)
    kinds = {problem.kind for problem in found.problems}
    stale = bool(changed or kinds & {"manifest", "index"})
    reindexed = stale and not (found.bad and found.folder is None)
    if reindexed:
        _reindex(url, output, found=found, settings=settings, workers=workers, watch=watch)
    for staging in folder.glob(f"{STAGING}*"):
        shutil.rmtree(staging, ignore_errors=True)
    return Repaired(
        found=found,
        folder=folder,
        rebuilt=tuple(found.bad.values()),
        changed=changed,
        reindexed=reindexed,
        needs_index=stale and not reindexed,
        left=verify(folder, only=set(found.bad)) if found.folder else found,
    )


def _install(staging: Path, built: Manifest, folder: Path, *, found: Verified) -> tuple[str, ...]:
    """Put the shards in their place; returns those that are not what the manifest says."""
    entries = {entry.number: entry for entry in built.shards}
    before = {entry.number: entry for entry in found.manifest.shards} if found.manifest else {}
    changed = []
    for number, name in found.bad.items():
        entry = entries[number]
        with (
            atomic_file(folder / name) as target,
            (staging / entry.name).open("rb") as shard,
        ):
            shutil.copyfileobj(shard, target, COPY_BYTES)
        if number in before and entry.sha256 != before[number].sha256:
            changed.append(name)
            logger.warning(
                "%s is not the shard that it was: its sha256 is %s now, and was %s. The source has "
                "changed, or other versions of libraries encoded it: caches and states of runs do "
                "not fit this data set any more.",
                folder / name, entry.sha256, before[number].sha256,
            )  # fmt: skip
    return tuple(changed)


def _tidy(folder: Path, found: Verified) -> None:
    """Put aside tars that are not of the data set, and remove what was left over."""
    try:
        for problem in found.problems:
            path = folder / problem.file
            if problem.kind == "unlisted":
                path.rename(path.with_name(path.name + ASIDE))
                logger.warning("%s is not of the data set: it is %s%s now.", path, path.name, ASIDE)
            elif problem.kind == "leftover" and not problem.file.startswith(STAGING):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise StorageError(f"{folder} can't be tidied: {error}. Check its permissions.") from error


def _reindex(
    url: str | Path,
    output: Path | None,
    *,
    found: Verified,
    settings: Settings,
    workers: int,
    watch: Watch,
) -> None:
    """Make manifest and index again of the shards as they are now."""
    if found.manifest is None and found.index is None:
        logger.warning(
            "%s has neither a manifest nor an index of its shards: damaged pixels would not be "
            "found. Copy one of them there and run this again, if there is one.",
            found.url,
        )
    names = [name.removesuffix(".tar") for name in found.shards.values()]
    pattern = f"{{{','.join(names)}}}" if names[1:] else names[0]
    reindex(
        f"{str(url).rstrip('/')}/{pattern}.tar", output=output, product=settings.product,
        samples_per_shard=settings.samples_per_shard, workers=workers,
        on_start=watch.on_bytes, on_shard=watch.on_tar,
    )  # fmt: skip
