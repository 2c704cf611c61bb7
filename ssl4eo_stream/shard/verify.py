"""Read a local data set back, every byte of it, and say what is wrong."""

import hashlib
import json
import multiprocessing
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.geotiff import read_pages
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.manifest import INDEX, MANIFEST, Index, Manifest, ShardEntry
from ssl4eo_stream.shard.parts import PARTS
from ssl4eo_stream.shard.prefixes import Prefixes, prefixes
from ssl4eo_stream.tars import place_of

REPAIR = "Remove it and run ssl4eo-shard build again"


@dataclass(frozen=True, kw_only=True)
class Member:
    """A GeoTIFF as the index lists it."""

    name: str
    """Name in the tar, `0012345.t0.tif`."""
    offset: int
    """First byte in the tar."""
    prefixes: Prefixes
    """Bytes of its beginnings through each page, and their CRC-32C; the last is all of it."""

    @property
    def length(self) -> int:
        """Its bytes."""
        return self.prefixes.ends[-1]


def verify(
    dest: Path, *, workers: int = 1, on_shard: Callable[[int], None] = lambda _: None
) -> tuple[Manifest, list[str]]:
    """Compare every byte of a data set with its manifest and index.

    Args:
        dest: The folder.
        workers: Processes; 0 and 1 work in this one.
        on_shard: Called after each shard with its number of locations.

    Returns:
        The manifest, and a line for everything that is wrong.

    Raises:
        ShardError: There is no manifest to compare with, or no readable index.
    """
    try:
        manifest = Manifest.from_json((dest / MANIFEST).read_bytes(), url=str(dest / MANIFEST))
        data = (dest / INDEX).read_bytes()
    except OSError as error:
        raise ShardError(
            f"{dest} holds no finished shards: {error}. Run ssl4eo-shard build; "
            "it goes on where it stopped."
        ) from error
    problems = _leftovers(dest, manifest)
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        problems.append(f"{dest / INDEX}: sha256 is not the manifest's. {REPAIR}.")
    index = Index.from_parquet(data, url=str(dest / INDEX))
    if (len(index), len(index.offsets)) != (manifest.locations, manifest.patches):
        problems.append(
            f"{dest / INDEX}: {len(index)} locations and {len(index.offsets)} patches, the "
            f"manifest has {manifest.locations} and {manifest.patches}. {REPAIR}."
        )
    check = partial(check_shard, dest, manifest)
    members = [_members(index, entry.number) for entry in manifest.shards]
    for entry, found in zip(
        manifest.shards, _map(check, manifest.shards, members, workers=workers), strict=True
    ):
        problems += found
        on_shard(entry.locations)
    return manifest, problems


def _map(
    check: Callable[[ShardEntry, list[Member]], list[str]],
    entries: tuple[ShardEntry, ...],
    members: list[list[Member]],
    *,
    workers: int,
) -> Iterator[list[str]]:
    if workers <= 1:
        yield from map(check, entries, members)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, max(1, len(entries))), context) as pool:
        yield from pool.map(check, entries, members)


def _members(index: Index, number: int) -> list[Member]:
    """The GeoTIFFs of one shard in the order of the tar."""
    return [
        Member(
            name=f"{location_key(int(index.ids[i]))}.t{date}.tif",
            offset=int(index.offsets[j]),
            prefixes=Prefixes(
                ends=tuple(index.page_ends[j].tolist()), crc32c=tuple(index.page_crc32c[j].tolist())
            ),
        )
        for i in np.flatnonzero(index.shards == number)
        for date, j in enumerate(range(index.first_date[i], index.first_date[i + 1]))
    ]


def check_shard(
    dest: Path, manifest: Manifest, entry: ShardEntry, members: list[Member]
) -> list[str]:
    """Return what is wrong with one shard."""
    path = dest / entry.name
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
            if size != entry.bytes:
                return [f"{path}: {size} bytes, the manifest has {entry.bytes}. {REPAIR}."]
            problems = [] if sha256 == entry.sha256 else ["sha256 is not the manifest's"]
            try:
                problems += _contents(file, manifest, members)
            except tarfile.TarError as error:
                problems.append(f"the tar is damaged: {error}")
    except OSError as error:
        return [f"{path}: can't be read: {error}. Run ssl4eo-shard build again."]
    return [f"{path}: {problem}. {REPAIR}." for problem in problems]


def _contents(file: BinaryIO, manifest: Manifest, members: list[Member]) -> Iterator[str]:
    """What is wrong inside a tar: its headers against the index, its members against themselves."""
    file.seek(0)
    listed = {member.name: member for member in members}
    with tarfile.open(fileobj=file, mode="r:") as tar:
        infos = {}  # by name, as shards written by this package spell it
        for info in tar.getmembers():
            if info.isreg() and (place := place_of(info.name)):
                key, date = location_key(place[0]), place[1]
                infos[f"{key}.json" if date is None else f"{key}.t{date}.tif"] = info
        found = [name for name in infos if name.endswith(".tif")]
        if sorted(found) != sorted(listed):
            yield f"its {len(found)} GeoTIFFs are not the {len(listed)} of the index"
        for name, info in infos.items():
            file.seek(info.offset_data)
            data = file.read(info.size)
            member = listed.get(name)
            if name.endswith(".json"):
                yield from _json(data, name)
            elif member is None:
                yield f"member {name} is not in the index"
            elif (info.offset_data, info.size) != (member.offset, member.length):
                yield (
                    f"member {name} has {info.size} bytes at {info.offset_data}, the index "
                    f"says {member.length} at {member.offset}"
                )
            elif google_crc32c.value(data) != member.prefixes.crc32c[-1]:
                yield f"member {name} at byte {member.offset}: crc32c is not the index's"
            else:
                yield from _pages(data, manifest, member)


def _json(data: bytes, name: str) -> Iterator[str]:
    try:
        key = location_key(int(json.loads(data).get("id", name.removesuffix(".json"))))
    except (ValueError, AttributeError, TypeError) as error:
        yield f"member {name} is not the JSON of a location: {error!r}"
        return
    if f"{key}.json" != name:
        yield f"member {name} is of location {key}"


def _pages(data: bytes, manifest: Manifest, member: Member) -> Iterator[str]:
    pixels = {band.name: band.pixels for band in PRODUCTS[manifest.product].bands}
    expected = [
        (pixels[bands[0]], pixels[bands[0]], len(bands), manifest.dtype) for bands in manifest.pages
    ]
    try:
        pages = read_pages(data, name=member.name)
    except SourceError as error:
        yield str(error)
        return
    found = [(page.height, page.width, page.samples, str(page.dtype)) for page in pages]
    if found != expected:
        yield f"member {member.name} has pages {found}, the manifest has {expected}"
    elif prefixes(data, pages=pages, name=member.name) != member.prefixes:
        yield f"member {member.name}: its pages do not end, or sum up, as the index says"


def _leftovers(dest: Path, manifest: Manifest) -> list[str]:
    """Files that no reader will ever look at."""
    names = {entry.name for entry in manifest.shards}
    problems = []
    for path in sorted(dest.iterdir()):
        if path.name == PARTS:
            problems.append(f"{path}: left over from a build. Run ssl4eo-shard build again.")
        elif path.name.startswith(".") and ".tmp-" in path.name:
            problems.append(f"{path}: left over from a build that was killed. Remove it.")
        elif path.suffix == ".tar" and path.name not in names:
            problems.append(f"{path}: not in the manifest. Remove it.")
    return problems
