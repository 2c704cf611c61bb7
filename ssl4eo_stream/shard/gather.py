"""An archive -> unfinished shards: every parcel encoded, and filed under the shard of its id.

One process inflates and files, the pool's decode, quantize and encode. Memory does not depend on
the order of members, and a rerun inflates again but does nothing twice.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ssl4eo_stream.bands import Product
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.geotiff import Codec, centre, read_pages
from ssl4eo_stream.sample import Acquisition, location_key
from ssl4eo_stream.shard.archive import Archive, Parcel, RawParcel, TruncatedError
from ssl4eo_stream.shard.locations import Packed, encode
from ssl4eo_stream.shard.processes import Pool
from ssl4eo_stream.shard.room import look_up
from ssl4eo_stream.shard.source import (
    METADATA,
    acquisition_of,
    location_of,
    patch_of,
    properties_of,
)
from ssl4eo_stream.shard.unfinished import PATCH, PROBLEM, Found, append, read, scan

IN_FLIGHT = 4
"""Items per worker that wait for it or for being filed: a parcel has 0.8 MB, a location of
SSL4EO-S12 v1.1 has 3.6 MB."""
SLOTS_EACH = IN_FLIGHT + 2
"""Parcels per worker that there is room for: those that wait, and two that are being filled."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """What has to be known to turn an archive's parcels into an unfinished shard's."""

    folder: Path
    """Where unfinished shards lie."""
    product: Product
    """Which product."""
    codec: Codec
    """How pixels are to be stored."""
    samples_per_shard: int
    """Ids per shard."""
    archive: str
    """What messages call the archive."""

    def path_of_shard(self, number: int | Literal["*"]) -> Path:
        """Return the unfinished shard of a number, or the pattern of all of them."""
        digits = number if number == "*" else f"{number:06d}"
        return self.folder / f"{self.product.name}-{digits}.unfinished.tar"

    def encoded(self, parcel: RawParcel) -> Parcel:
        """Return a parcel with its bands made one GeoTIFF if they are all there.

        A band that can't be used is told of in a file of its own.
        """
        names = [f"{band}.tif" for band in self.product.names]
        files = {name: look_up(data) for name, data in parcel.files.items()}
        is_whole = all(name in files for name in names)
        where = f"{self.archive}: {location_key(parcel.id)}/{parcel.acquisition}"
        # what is kept has to leave the room, which is filled again
        kept = {
            name: bytes(data) for name, data in files.items() if name == METADATA or not is_whole
        }
        if not is_whole:
            return Parcel(id=parcel.id, acquisition=parcel.acquisition, files=kept)
        try:
            patch = patch_of(
                [(f"{where}/{name}", files[name]) for name in names], product=self.product
            )
            kept[PATCH] = encode(patch, product=self.product, codec=self.codec)
        except SourceError as error:
            kept[PROBLEM] = str(error).encode()
        return Parcel(id=parcel.id, acquisition=parcel.acquisition, files=kept)

    def file(self, parcel: Parcel, *, stop_at_problems: bool) -> None:
        """Append an encoded parcel to the unfinished shard of its id.

        Raises:
            SourceError: It tells of a problem, and is to stop at such.
            StorageError: The unfinished shard can't be written.
        """
        if stop_at_problems and PROBLEM in parcel.files:
            raise SourceError(parcel.files[PROBLEM].decode())
        append(self.path_of_shard(parcel.id // self.samples_per_shard), parcel)


@dataclass(frozen=True, kw_only=True)
class GatheredLocations:
    """Locations of an unfinished shard."""

    path: Path
    """The unfinished shard."""
    numbers: tuple[int, ...]
    """Their ids, in order. Where they lie is looked up by who packs them: all of 1 million patches
    would be a gigabyte here."""
    gathering: Gathering
    """How it came to be."""

    def ids(self) -> Sequence[int]:
        """Return their ids, in order."""
        return self.numbers

    def read(self, number: int) -> Packed:
        """Return a location as it was encoded; encode now what came in several parcels.

        Raises:
            SourceError: Something of it was not in the archive, or can't be used.
            StorageError: The unfinished shard can't be read.
        """
        members: dict[str, bytes] = {}
        metadata: dict[str, Mapping[str, Any]] = {}
        acquisitions: list[Acquisition] = []
        for name, places in _found(self.path, self.path.stat().st_size)[number].items():
            where = f"{self.gathering.archive}: {location_key(number)}/{name}"
            files = {file: read(self.path, place) for file, place in places.items()}
            parcel = RawParcel(id=number, acquisition=name, files=files)
            if PATCH not in files:
                files = self.gathering.encoded(parcel).files
            if PATCH not in files and PROBLEM in files:
                raise SourceError(files[PROBLEM].decode())
            if PATCH not in files:
                missing = [b for b in self.gathering.product.names if f"{b}.tif" not in files]
                raise SourceError(
                    f"{where} lacks {', '.join(missing)}. Get the archive again, or leave such "
                    "locations out with --on-missing skip."
                )
            members[name] = files[PATCH]
            metadata[name] = (
                properties_of(files[METADATA], name=f"{where}/{METADATA}")
                if METADATA in files
                else {}
            )
            acquisitions.append(acquisition_of(metadata[name], folder=where))

        def position(first: Acquisition) -> tuple[float, float]:
            page = read_pages(members[first.name], name=first.name)[0]
            try:
                return centre(page.geo, page.width, page.height)
            except SourceError as error:
                raise SourceError(
                    f"{self.gathering.archive}: {location_key(number)}/{first.name} has {error}."
                ) from error

        location = location_of(number, acquisitions, metadata=metadata, position=position)
        return Packed(
            location=location,
            members=[members[acquisition.name] for acquisition in location.acquisitions],
            bytes_read=0,
        )

    def clear(self) -> None:
        """Remove the unfinished shard."""
        self.path.unlink(missing_ok=True)


@functools.lru_cache(maxsize=1)
def _found(path: Path, size: int) -> Found:  # noqa: ARG001 - it grows until it is complete
    """Return what an unfinished shard holds; a process packs one at a time."""
    return scan(path)


def gather(
    archive: Archive,
    gathering: Gathering,
    *,
    executor: Executor | None,
    at_once: int,
    known: Found,
    wanted: Callable[[int], bool],
    stop_at_problems: bool,
    on_bytes: Callable[[int], None],
) -> None:
    """File what an archive holds and unfinished shards don't.

    Args:
        archive: What to read.
        gathering: How.
        executor: Who encodes; this process if None.
        at_once: How many do.
        known: What unfinished shards hold already.
        wanted: Location id -> whether to take it.
        stop_at_problems: Whether a band that can't be used ends it.
        on_bytes: Called with the number of bytes of the archive read so far.

    Raises:
        TruncatedError: The archive ends early; what came before is filed, but for its last place.
        SourceError: A band can't be used.
        StorageError: The archive can't be read, or an unfinished shard not written.
    """
    bands = frozenset(f"{band}.tif" for band in gathering.product.names)

    def is_new(number: int, acquisition: str, file: str) -> bool:
        if not wanted(number) or (file not in bands and file != METADATA):
            return False
        there = known.get(number, {}).get(acquisition, {})
        return file not in there and not (file in bands and PATCH in there)

    room = executor.room if isinstance(executor, Pool) else None
    parcels = archive.parcels(wanted=is_new, room=room, on_bytes=on_bytes)
    for parcel in encode_all(parcels, gathering.encoded, executor=executor, at_once=at_once):
        gathering.file(parcel, stop_at_problems=stop_at_problems)


def encode_all(
    items: Iterable[Item],
    encode: Callable[[Item], Result],
    *,
    executor: Executor | None,
    at_once: int,
) -> Iterator[Result]:
    """Yield what becomes of items, in their order; those that wait come out even at a cut.

    Args:
        items: What the archive holds; ends with TruncatedError if it is cut.
        encode: What is done to each.
        executor: Who encodes; this process if None.
        at_once: How many do.
    """
    if executor is None:
        yield from map(encode, items)
        return
    waiting = deque()
    cut: TruncatedError | None = None
    items = iter(items)
    while True:
        try:
            item = next(items, None)
        except TruncatedError as error:
            cut, item = error, None
        if item is None:
            break
        waiting.append(executor.submit(encode, item))
        while len(waiting) >= IN_FLIGHT * at_once:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
    if cut:
        raise cut
