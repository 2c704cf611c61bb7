"""A tree or archives -> the shards that there are to pack, and where each one's locations lie."""

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import SourceError, StorageError
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.archive import Archive
from ssl4eo_stream.shard.archives import ENDED, gather_all
from ssl4eo_stream.shard.destination import Destination
from ssl4eo_stream.shard.gather import GatheredLocations, Gathering
from ssl4eo_stream.shard.locations import Locations, TreeLocations
from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.shard.pack import OnMissing, Skipped
from ssl4eo_stream.shard.parts import PARTS, read_parts
from ssl4eo_stream.shard.source import (
    examples,
    list_ids,
    product_folder,
    shard_plan,
    sibling_ids,
)
from ssl4eo_stream.shard.unfinished import has_pixels, scan
from ssl4eo_stream.shard.v11 import SUFFIX
from ssl4eo_stream.shard.v11_tars import find

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a build was asked for."""

    form: Manifest
    """The manifest to be, without shards."""
    codec: Codec
    """How pixels are to be stored."""
    wanted: set[int] | None
    """Ids of the locations to take; all if None."""
    on_missing: OnMissing
    """What to do about a location that can't be had whole."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What there is to pack."""

    shards: dict[int, Locations]
    """By shard number."""
    kept: frozenset[int]
    """Shards that were finished before and whose source is used up."""
    absent: list[Skipped]
    """Locations that the source lacks."""
    ended: Path | None = None
    """What says that an archive has been read to its end."""

    def clear(self) -> None:
        """Remove what is of no use once all shards are finished."""
        if self.ended is not None:
            self.ended.unlink(missing_ok=True)
            with suppress(OSError):  # what else lies there is not ours
                self.ended.parent.rmdir()


def of_tree(source: Path, asked: Asked) -> Work:
    """List a tree's locations, by shard.

    Raises:
        SourceError: The tree is empty, or lacks something.
    """
    product = PRODUCTS[asked.form.product]
    folder = product_folder(source, product=product.name)
    ids = list_ids(folder)
    wanted = set(ids) if asked.wanted is None else asked.wanted
    others = sibling_ids(folder) if folder != source else {}
    if asked.wanted is not None:
        others = {name: theirs & wanted for name, theirs in others.items()}
    lacking = _absent(
        folder, ids=set(ids), wanted=wanted, others=others, on_missing=asked.on_missing
    )
    plan = shard_plan(wanted & set(ids), samples_per_shard=asked.form.samples_per_shard)
    if not plan:
        raise SourceError(
            f"{folder} holds no location to pack: {len(ids)} folders are named by an id of 6 or 7 "
            f"digits, {len(wanted)} were asked for. Give the folder that holds {product.name}/."
        )
    shards: dict[int, Locations] = {
        number: TreeLocations(
            source=folder, folders={i: ids[i] for i in members}, product=product, codec=asked.codec
        )
        for number, members in plan.items()
    }
    return Work(shards=shards, kept=frozenset(), absent=lacking)


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
    return absent(str(folder), reasons, on_missing=on_missing)


def absent(source: str, reasons: dict[int, str], *, on_missing: OnMissing) -> list[Skipped]:
    """Return the locations that a source lacks as such that are left out, and warn of them.

    Raises:
        SourceError: They are not to be left out.
    """
    if reasons:
        text = (
            f"{source} lacks {len(reasons)} locations that were asked for or that another product "
            f"has: {examples(reasons)}."
        )
        if on_missing == "error":
            raise SourceError(f"{text} Download them, or go on with --on-missing skip.")
        logger.warning("%s They are left out.", text)
    return [Skipped(id=location_key(i), reason=reason) for i, reason in sorted(reasons.items())]


def scratch_folder(dest: Destination, scratch: Path | None, *, form: Manifest) -> Path:
    """Return where the unfinished shards of an archive lie; made if missing.

    Args:
        dest: Where finished shards go.
        scratch: What was asked for: a folder of these settings' own is made in it.
        form: The manifest to be, without shards.

    Raises:
        StorageError: It can't be made, or was not given for object storage.
    """
    if scratch is not None:
        key = hashlib.sha256(dest.url.encode() + form.to_json()).hexdigest()[:12]
        folder = scratch / f"{form.product}-{key}"
    elif dest.folder is not None:
        folder = dest.folder / PARTS
    else:
        raise StorageError(
            f"An archive on its way to {dest.url} needs room on this machine for shards until they "
            "are complete. Give a folder with as much as all shards take: --scratch DIR."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder} can't be made: {error.strerror}. Check the path and its permissions."
        ) from error
    return folder


def of_archive(
    location: str,
    dest: Destination,
    asked: Asked,
    *,
    scratch: Path,
    executor: Executor | None,
    at_once: int,
    on_read: Callable[[int, int], None],
) -> Work:
    """File all of an archive, or of the tars of v1.1, in unfinished shards, but what was before.

    Args:
        location: Path or URL of the archive, or of its pieces by a pattern; or of tars of v1.1.
        dest: Where shards go, prepared.
        asked: What to take.
        scratch: Folder for unfinished shards.
        executor: Who encodes; this process if None.
        at_once: How many do.
        on_read: Called with the bytes of the archive that have been read, and its size.

    Raises:
        SourceError: An archive is cut, holds nothing to pack, or something broken.
        ShardError: There are no tars of v1.1.
        StorageError: An archive can't be read, or an unfinished shard not written.
    """
    form = asked.form
    if form.source is None:
        archives, members = [Archive.find(location)], f"…/0012345/DATE/{form.bands[0]}.tif"
    else:
        archives, members = find(location), f"*{SUFFIX}"
    name = archives[0].name if len(archives) == 1 else f"{len(archives)} tars of {location}"
    gathering = Gathering(
        folder=scratch, product=PRODUCTS[form.product], codec=asked.codec,
        samples_per_shard=form.samples_per_shard, archive=name,
    )  # fmt: skip
    left_out, reasons = gather_all(
        archives, gathering, dn_offset=form.dn_offset, executor=executor, at_once=at_once,
        on_read=on_read, wanted=lambda number: asked.wanted is None or number in asked.wanted,
        which=_digest(asked.wanted), on_missing=asked.on_missing,
    )  # fmt: skip
    shards: dict[int, GatheredLocations] = {}
    seen: set[int] = set()
    pixels = False
    for path in sorted(scratch.glob(gathering.path_of_shard("*").name)):
        found = scan(path)
        for number in reasons.keys() | (found.keys() - (asked.wanted or found.keys())):
            found.pop(number, None)
        if found:
            number = min(found) // form.samples_per_shard
            shards[number] = GatheredLocations(
                path=path, numbers=tuple(sorted(found)), gathering=gathering
            )
            seen |= found.keys()
            pixels = pixels or has_pixels(found)
    kept: set[int] = set()
    for number, (rows, _) in read_parts(dest, form.product).items():
        if number not in shards:
            kept.add(number)
            seen.update(map(int, rows["id"].to_pylist()))
    reasons |= dict.fromkeys((asked.wanted or set()) - seen - reasons.keys(), "not in the source")
    if not kept and not pixels:
        raise SourceError(
            f"{name} holds no location to pack: no member {members} is of a location that was "
            f"asked for. Is it of {form.product}, and --from the release that it is of?"
        )
    lacking = absent(name, reasons, on_missing=asked.on_missing)
    return Work(
        shards={**shards}, kept=frozenset(kept), absent=[*left_out, *lacking], ended=scratch / ENDED
    )


def _digest(ids: set[int] | None) -> str:
    """Return what changes when the ids do."""
    return "all" if ids is None else hashlib.sha256(repr(sorted(ids)).encode()).hexdigest()
