"""Read a data set back, every byte of it, wherever it lies, and say what is wrong and what to do.

A shard is vouched for by the manifest (sha256 of the tar) and by the index (place and CRC-32C of
every GeoTIFF), the index by the manifest (sha256). Where those two do not belong together, the
shards tell which one is theirs.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl4eo_stream.errors import MissingError, ShardError, Ssl4eoError, StorageError
from ssl4eo_stream.shard.check import Checked, check_shard
from ssl4eo_stream.shard.listing import Problem, names_in, strangers
from ssl4eo_stream.shard.manifest import INDEX, MANIFEST, Index, Manifest, read_manifest, shard_name
from ssl4eo_stream.shard.parts import PARTS
from ssl4eo_stream.shard.processes import worker_pool
from ssl4eo_stream.shard.reindex import shard_numbers
from ssl4eo_stream.shard.said import Listed, ShardToCheck, expected_pages
from ssl4eo_stream.store import Store, as_url

MAX_LINES = 8
"""Problems told of one shard."""
REBUILD = "Run ssl4eo-shard repair with --source, or copy it again"
REINDEX = "Run ssl4eo-shard repair: it makes manifest and index again from the shards"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found."""

    url: str
    """Where the data set lies, a path or a URL without credentials."""
    folder: Path | None
    """The same in this machine's file system, if it is there."""
    manifest: Manifest | None
    """The manifest, if it can be read and is of these shards."""
    index: Index | None
    """The index, if it can be read and is of these shards."""
    shards: dict[int, str]
    """The shards that belong to it, number -> file name."""
    bad: dict[int, str]
    """Those of them that are not what they should be."""
    bytes_read: int
    """Bytes of shards that were read."""
    problems: tuple[Problem, ...]
    """Everything that is wrong."""


def verify(
    url: str | Path,
    *,
    workers: int = 1,
    only: Collection[int] | None = None,
    on_start: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[int], None] = lambda _: None,
) -> Verified:
    """Read every byte of a data set once and compare it with manifest and index.

    Args:
        url: The folder: path or URL.
        workers: Processes, each reading a shard at a time; 0 and 1 work in this one.
        only: Numbers of the shards to read; all if not given.
        on_start: Called once with the bytes that the manifest says there are.
        on_shard: Called after each shard with its bytes.

    Raises:
        ShardError: There are no shards, or nothing says which, or a build is unfinished.
        StorageError: The folder is not there, or the storage can't be asked.
    """
    store = Store.open(url)
    names = names_in(store)
    manifest, told = _manifest(store)
    index, of_manifest, more = _index(store, manifest)
    if manifest is None:
        _refuse_nothing(store, names, told[0])
    shards = _shards(manifest, index, names=names or ())
    tasks = _tasks(as_url(url), shards, manifest, index, vouched=of_manifest, only=only)
    on_start(sum(task.entry.bytes for task in tasks if task.entry))
    checked: list[Checked] = []
    for found in _map(tasks, workers=workers):
        checked.append(found)
        on_shard(found.bytes)
    problems = told + more
    if index is not None and not of_manifest:
        manifest, index, more = _believe(manifest, index, checked)
        problems += more
    if manifest is not None:
        numbers = {entry.number for entry in manifest.shards}
        problems += _form(checked)
    else:
        numbers = set(shards) if index is None else set(index.shards.tolist())
    shards = {number: name for number, name in shards.items() if number in numbers}
    told_of = {each.number: _lines(each, manifest, index) for each in checked}
    bad = {number: name for number, name in shards.items() if told_of.get(number)}
    remedy = "Copy it again" if manifest and not manifest.samples_per_shard else REBUILD
    problems += [
        Problem(file=name, kind="shard", problem=line, remedy=remedy)
        for number, name in bad.items()
        for line in told_of[number]
    ]
    return Verified(
        url=str(store.folder or store.url),
        folder=store.folder,
        manifest=manifest,
        index=index,
        shards=shards,
        bad=bad,
        bytes_read=sum(each.bytes for each in checked),
        problems=(*problems, *strangers(names or (), known={*shards.values()})),
    )


def _manifest(store: Store) -> tuple[Manifest | None, list[Problem]]:
    try:
        manifest = read_manifest(store)
        expected_pages(manifest)
    except MissingError:
        return None, [_about(MANIFEST, "it is missing", REINDEX)]
    except ShardError as error:
        problem, remedy = _said(error, f"{store.url}/{MANIFEST}")
        return None, [_about(MANIFEST, f"it {problem}", remedy)]
    return manifest, []


def _index(store: Store, manifest: Manifest | None) -> tuple[Index | None, bool, list[Problem]]:
    """Return the index as far as it can be read, and whether it is the manifest's."""
    where = f"{store.url}/{INDEX}"
    try:
        data = store.read(INDEX)
    except MissingError:
        return None, False, [_about(INDEX, "it is missing", REINDEX)]
    except StorageError as error:
        problem, remedy = _said(error, where)
        return None, False, [_about(INDEX, f"it can't be read: {problem}", remedy)]
    try:
        index = Index.from_parquet(data, url=where)
    except ShardError as error:
        return None, False, [_about(INDEX, f"it {_said(error, where)[0]}", REINDEX)]
    same = manifest is not None and hashlib.sha256(data).hexdigest() == manifest.index_sha256
    return index, same, []


def _refuse_nothing(store: Store, names: Sequence[str] | None, problem: Problem) -> None:
    """Stop where there is no manifest, and nothing else to look at."""
    if names is None:
        raise ShardError(
            f"{store.url}/{MANIFEST}: {problem.problem}, and the folder can't be listed, so that "
            f"nothing tells which shards there are. {problem.remedy}."
        )
    if PARTS in names or not any(name.endswith(".tar") for name in names):
        raise ShardError(
            f"{store.url} holds no finished shards: {MANIFEST}: {problem.problem}. Run "
            "ssl4eo-shard build; it goes on where it stopped."
        )


def _shards(
    manifest: Manifest | None, index: Index | None, *, names: Sequence[str]
) -> dict[int, str]:
    """Return every shard that manifest (or else the folder) and index know: number -> name."""
    if manifest is not None:
        shards = {entry.number: entry.name for entry in manifest.shards}
    else:
        tars = [name for name in names if name.endswith(".tar")]
        shards = dict(zip(shard_numbers(tars), tars, strict=True))
    like = next(iter(shards.values()), shard_name(manifest.product, 0) if manifest else "")
    for number in set(index.shards.tolist()) - shards.keys() if index else ():
        shards[number] = re.sub(r"[0-9]+(?=\.tar$)", f"{number:06d}", like)
    return dict(sorted(shards.items()))


def _tasks(
    url: str,
    shards: dict[int, str],
    manifest: Manifest | None,
    index: Index | None,
    *,
    vouched: bool,
    only: Collection[int] | None,
) -> list[ShardToCheck]:
    entries = {entry.number: entry for entry in manifest.shards} if manifest else {}
    return [
        ShardToCheck(
            url=url,
            number=number,
            name=name,
            entry=entries.get(number),
            pages=expected_pages(manifest) if manifest else None,
            listed=Listed.of(index, number) if index else None,
            vouched=vouched,
        )
        for number, name in shards.items()
        if only is None or number in only
    ]


def _map(tasks: list[ShardToCheck], *, workers: int) -> Iterator[Checked]:
    if workers <= 1:
        yield from map(check_shard, tasks)
        return
    with worker_pool(min(workers, max(1, len(tasks)))) as pool:
        yield from pool.map(check_shard, tasks)


def _believe(
    manifest: Manifest | None, index: Index, checked: list[Checked]
) -> tuple[Manifest | None, Index | None, list[Problem]]:
    """Return which of manifest and index are of these shards, and what is wrong with the other."""
    as_manifest = {each.name: not (each.damage or each.unlike_manifest) for each in checked}
    as_index = {each.name: not (each.damage or each.unlike_index) for each in checked}
    if manifest is None:
        if any(as_index.values()):
            return None, index, []
        return None, None, [_about(INDEX, "it is of other shards", REINDEX)]
    other = [name for name in as_index if as_index[name] and not as_manifest[name]]
    if other and not any(as_manifest[name] and not as_index[name] for name in as_index):
        text = f"it is of other shards than {INDEX}, which is right, of {', '.join(other[:3])}"
        return None, index, [_about(MANIFEST, text + (", …" if other[3:] else ""), REINDEX)]
    return manifest, None, [_about(INDEX, "its sha256 is not the manifest's", REINDEX)]


def _form(checked: list[Checked]) -> list[Problem]:
    """What the manifest says of all GeoTIFFs, and shards that it vouches for don't bear out."""
    texts = [
        f"{each.name}: {each.unlike_form[0]}"
        for each in checked
        if each.unlike_form and not each.unlike_manifest
    ]
    return [_about(MANIFEST, texts[0], REINDEX)] if texts else []


def _lines(found: Checked, manifest: Manifest | None, index: Index | None) -> list[str]:
    """Return what is wrong with a shard, by those who are believed."""
    lines = list(found.damage)
    if manifest is not None:
        lines += found.unlike_manifest
        lines += found.unlike_form if found.unlike_manifest else []
    if index is not None:
        lines += found.unlike_index
    if len(lines) > MAX_LINES:
        lines[MAX_LINES - 1 :] = [f"and {len(lines) - MAX_LINES + 1} more such problems"]
    return lines


def _about(file: str, problem: str, remedy: str) -> Problem:
    kind = "manifest" if file == MANIFEST else "index"
    return Problem(file=file, kind=kind, problem=problem, remedy=remedy)


def _said(error: Ssl4eoError, where: str) -> tuple[str, str]:
    """Return an error's problem and remedy, which is its last sentence."""
    problem, _, remedy = str(error).rpartition(". ")
    return problem.removeprefix(f"{where} "), remedy.rstrip(".")
