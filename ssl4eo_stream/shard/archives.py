"""One archive, or the tars of SSL4EO-S12 v1.1 -> unfinished shards, each read to its end once."""

import json
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.shard.archive import Archive, TruncatedError
from ssl4eo_stream.shard.destination import atomic_file
from ssl4eo_stream.shard.gather import Gathering, gather
from ssl4eo_stream.shard.pack import OnMissing, Skipped
from ssl4eo_stream.shard.unfinished import Found, scan
from ssl4eo_stream.shard.v11_tars import TarGatherer

ENDED = "ended.json"
"""Beside unfinished shards: which archives have been read to their end for which locations, and
what could not be read of them."""
logger = logging.getLogger(__name__)


def gather_all(
    archives: list[Archive],
    gathering: Gathering,
    *,
    dn_offset: int | None,
    wanted: Callable[[int], bool],
    which: str,
    executor: Executor | None,
    at_once: int,
    on_missing: OnMissing,
    on_read: Callable[[int, int], None],
) -> tuple[list[Skipped], dict[int, str]]:
    """File what archives hold and unfinished shards don't.

    Args:
        archives: What to read; those that were read to their end before are not opened.
        gathering: How.
        dn_offset: Of tars of v1.1, what their DN had been raised by; None: archives of a tree.
        wanted: Location id -> whether to take it.
        which: What changes when that does.
        executor: Who encodes; this process if None.
        at_once: How many do.
        on_missing: Whether to stop at what can't be had.
        on_read: Called with the bytes of the archives that have been read, and their size.

    Returns:
        What can't be had and has no id: members of v1.1 that can't be read, tars that are cut. And
        the location that an archive ends in, with the reason.

    Raises:
        SourceError: An archive is cut, or something in it can't be used.
        StorageError: An archive can't be read, or an unfinished shard not written.
    """
    path = gathering.folder / ENDED
    ended = _read(path, which)
    if all(archive.identity in ended for archive in archives):
        return _skipped(archives, ended, on_missing=on_missing), {}
    known: Found = {}
    for unfinished in gathering.folder.glob(gathering.path_of_shard("*").name):
        known |= scan(unfinished)
    tars = None if dn_offset is None else TarGatherer(gathering=gathering, dn_offset=dn_offset)
    size, before = sum(archive.size for archive in archives), 0
    cut: list[Skipped] = []
    places: dict[int, str] = {}

    def read(done: int) -> None:
        on_read(before + done, size)

    for archive in archives:
        lacks: list[Skipped] = []
        try:
            if archive.identity in ended:
                pass
            elif tars:
                tars.gather(
                    archive, executor=executor, at_once=at_once, known=known, wanted=wanted,
                    stop_at_problems=on_missing == "error", on_bytes=read, lacks=lacks,
                )  # fmt: skip
            else:
                gather(
                    archive, gathering, executor=executor, at_once=at_once, known=known,
                    wanted=wanted, stop_at_problems=on_missing == "error", on_bytes=read,
                )  # fmt: skip
        except TruncatedError as error:
            if on_missing == "error":
                raise
            logger.warning("%s", error)
            if error.place is None:
                cut += [*lacks, Skipped(id=archive.name, reason=str(error))]
            else:
                places[error.place] = "the archive ends in the middle of it"
        else:
            ended.setdefault(archive.identity, [[each.id, each.reason] for each in lacks])
            with atomic_file(path) as file:
                file.write(json.dumps({"locations": which, "archives": ended}).encode())
        before += archive.size
    return cut + _skipped(archives, ended, on_missing=on_missing), places


def _read(path: Path, which: str) -> dict[str, list[list[str]]]:
    """Return the archives that were read to their end for these locations, and what they lack."""
    if not path.exists():
        return {}
    said = json.loads(path.read_bytes())
    return said["archives"] if said.get("locations") == which else {}


def _skipped(
    archives: list[Archive], ended: dict[str, list[list[str]]], *, on_missing: OnMissing
) -> list[Skipped]:
    """Return what archives that were read lack.

    Raises:
        SourceError: Something, and it was to stop at such.
    """
    lacks = [
        Skipped(id=name, reason=reason)
        for archive in archives
        for name, reason in ended.get(archive.identity, ())
    ]
    if lacks and on_missing == "error":
        raise SourceError(lacks[0].reason)
    return lacks
