"""A tree or an archive -> the shards that there are to pack, and where each one's locations lie."""

import hashlib
import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.archive import Archive, TruncatedError
from ssl4eo_stream.shard.gather import GatheredLocations, Gathering, gather
from ssl4eo_stream.shard.locations import Locations, TreeLocations
from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.shard.pack import OnMissing, Skipped
from ssl4eo_stream.shard.parts import PARTS, atomic_file, read_part
from ssl4eo_stream.shard.processes import worker_pool
from ssl4eo_stream.shard.source import (
    examples,
    list_ids,
    product_folder,
    shard_plan,
    sibling_ids,
)
from ssl4eo_stream.shard.unfinished import Found, has_pixels, scan

ENDED = "ended.json"
"""Beside unfinished shards: which archive has been read to its end."""
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


def of_archive(
    location: str,
    dest: Path,
    asked: Asked,
    *,
    workers: int,
    on_read: Callable[[int, int], None],
) -> Work:
    """File all of an archive in unfinished shards, unless that was done before.

    Args:
        location: Path or URL of the archive, or a pattern of its pieces.
        dest: Folder for the shards, prepared.
        asked: What to take.
        workers: Processes that encode; 0 and 1: this one does.
        on_read: Called with the bytes of the archive that have been read, and its size.

    Raises:
        SourceError: The archive is cut, holds nothing to pack, or something broken.
        StorageError: The archive can't be read, or an unfinished shard not written.
    """
    form, parts = asked.form, dest / PARTS
    archive = Archive(location)
    gathering = Gathering(
        folder=parts, product=PRODUCTS[form.product], codec=asked.codec,
        samples_per_shard=form.samples_per_shard, archive=archive.name,
    )  # fmt: skip
    reasons: dict[int, str] = {}
    mark = json.dumps({"archive": archive.identity, "locations": _digest(asked.wanted)}).encode()
    ended = parts / ENDED
    if not (ended.exists() and ended.read_bytes() == mark):
        known: Found = {}
        for path in parts.glob(gathering.path_of_shard("*").name):
            known |= scan(path)
        with worker_pool(workers) if workers > 1 else nullcontext() as pool:
            try:
                gather(
                    archive, gathering, pool=pool, workers=workers, known=known,
                    wanted=lambda number: asked.wanted is None or number in asked.wanted,
                    stop_at_problems=asked.on_missing == "error",
                    on_bytes=lambda done: on_read(done, archive.bytes),
                )  # fmt: skip
            except TruncatedError as error:
                if asked.on_missing == "error":
                    raise
                logger.warning("%s", error)
                if error.place is not None:
                    reasons[error.place] = "the archive ends in the middle of it"
            else:
                with atomic_file(ended) as file:
                    file.write(mark)
    shards: dict[int, GatheredLocations] = {}
    seen: set[int] = set()
    for path in sorted(parts.glob(gathering.path_of_shard("*").name)):
        found = scan(path)
        for number in reasons.keys() | (found.keys() - (asked.wanted or found.keys())):
            found.pop(number, None)
        if found:
            number = min(found) // form.samples_per_shard
            shards[number] = GatheredLocations(path=path, found=found, gathering=gathering)
            seen |= found.keys()
    kept: set[int] = set()
    for tar in dest.glob(f"{form.product}-*.tar"):
        number = int(tar.stem.removeprefix(f"{form.product}-"))
        if number not in shards and (part := read_part(dest, form.product, number)):
            kept.add(number)
            seen.update(map(int, part[0]["id"].to_pylist()))
    reasons |= dict.fromkeys((asked.wanted or set()) - seen - reasons.keys(), "not in the source")
    if not kept and not any(has_pixels(members.found) for members in shards.values()):
        raise SourceError(
            f"{archive.name} holds no location to pack: no member is named …/0012345/DATE/"
            f"{form.bands[0]}.tif, the digits being a location that was asked for. Is it of "
            f"{form.product}?"
        )
    lacking = absent(archive.name, reasons, on_missing=asked.on_missing)
    return Work(shards={**shards}, kept=frozenset(kept), absent=lacking)


def _digest(ids: set[int] | None) -> str:
    """Return what changes when the ids do."""
    return "all" if ids is None else hashlib.sha256(repr(sorted(ids)).encode()).hexdigest()
