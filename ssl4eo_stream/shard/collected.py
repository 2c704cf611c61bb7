"""Patches on their way from a service straight into shards: no file of a tree is ever written.

Each is encoded as it comes and filed in the unfinished shard of its id; once all are there, they
are packed. The shards are, byte for byte, those of the tree that the same download would write.
"""

import fcntl
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ssl4eo_stream.bands import PRODUCTS, ProductName
from ssl4eo_stream.collect.taken import Place, Taken, check_names, files_of
from ssl4eo_stream.errors import ShardError, StorageError
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.shard.archive import Parcel, RawParcel
from ssl4eo_stream.shard.build import Built, form_of, pack_work
from ssl4eo_stream.shard.destination import Destination
from ssl4eo_stream.shard.gather import GatheredLocations, Gathering
from ssl4eo_stream.shard.manifest import MANIFEST
from ssl4eo_stream.shard.parts import PARTS, compare, prepare, read_parts
from ssl4eo_stream.shard.source import examples
from ssl4eo_stream.shard.unfinished import append, read, scan
from ssl4eo_stream.shard.work import Work

LOCK = ".shards.lock"


class CollectedShards:
    """Keeps locations in shards, `DEST/{s1,s2a,s2c}/`; one process at a time.

    Args:
        dest: Folder for the products' folders; it is there.
        products: What it holds of each location.
        codec: How pixels are stored: `jpeg:Q`, `zstd` or `zstd16`.
        samples_per_shard: Ids per shard: shard number = id // this.
        done: Ids of the locations that are known to be whole. What else lies there was being
            written when a process ended, and goes.

    Raises:
        ShardError: Another process is at work there, or it holds shards of other settings.
        StorageError: It can't be read or written.
        ValueError: The codec is not known.
    """

    def __init__(
        self,
        dest: Path,
        *,
        products: Sequence[ProductName],
        codec: str,
        samples_per_shard: int,
        done: Collection[int],
    ) -> None:
        storage = Codec.parse(codec)
        self._descriptor = _locked(dest / LOCK)
        self._places = {name: Destination.at(dest / name) for name in products}
        self._forms = {
            name: form_of(PRODUCTS[name], codec=storage, samples_per_shard=samples_per_shard)
            for name in products
        }
        self._gatherings: dict[ProductName, Gathering] = {
            name: Gathering(
                folder=dest / name / PARTS, product=PRODUCTS[name], codec=storage,
                samples_per_shard=samples_per_shard, archive=f"{name} as collected",
            )
            for name in products
        }  # fmt: skip
        self._locks = {name: threading.Lock() for name in products}
        try:
            for name, gathering in self._gatherings.items():
                compare(self._places[name], form=self._forms[name])
                gathering.folder.mkdir(parents=True, exist_ok=True)
                for path in _unfinished(gathering):
                    _keep(path, done)
        except OSError as error:
            raise StorageError(
                f"{error.filename} can't be written: {error.strerror}. Check its permissions."
            ) from error

    def write(
        self, place: Place, taken: Mapping[ProductName, Sequence[Taken]], *, source: str
    ) -> None:
        """Encode and file all of a location.

        Raises:
            ServiceError: Two dates of a product have the same name.
            SourceError: Pixels are not finite.
            StorageError: They can't be written.
        """
        check_names(taken, place=place)
        for product, dates in taken.items():
            gathering = self._gatherings[product]
            for each in dates:
                files = files_of(each, place=place, source=source)
                parcel = gathering.encoded(
                    RawParcel(id=place.id, acquisition=each.scene.name, files=files)
                )
                with self._locks[product]:
                    gathering.file(parcel, stop_at_problems=True)

    def discard(self, place: Place) -> None:
        """Do nothing: what is not known to be whole goes when it is opened."""

    def pack(self, done: Collection[int]) -> dict[ProductName, Built | None]:
        """Pack all that was collected.

        Args:
            done: Ids of all locations, at least one.

        Returns:
            What was made of each product; None where it was finished before.

        Raises:
            ShardError: A location is not there any more.
            StorageError: Shards can't be written.
        """
        made: dict[ProductName, Built | None] = {}
        for name, gathering in self._gatherings.items():
            place, form = self._places[name], self._forms[name]
            if place.read(MANIFEST) is not None:
                made[name] = None
                continue
            prepare(place, form=form)
            shards: dict[int, GatheredLocations] = {}
            for path in _unfinished(gathering):
                numbers = tuple(sorted(scan(path)))
                shards[numbers[0] // form.samples_per_shard] = GatheredLocations(
                    path=path, numbers=numbers, gathering=gathering
                )
            parts = read_parts(place, name)
            kept = frozenset(parts.keys() - shards.keys())
            there = {number for each in shards.values() for number in each.ids()}
            there.update(int(i) for number in kept for i in parts[number][0]["id"].to_pylist())
            if lost := set(done) - there:
                raise ShardError(
                    f"{place.url} has lost {len(lost)} locations that were collected: "
                    f"{examples(lost)}. Collect them into another DEST."
                )
            work = Work(shards={**shards}, kept=kept, absent=[])
            made[name] = pack_work(work, place, form=form, on_missing="error")
        return made

    def close(self) -> None:
        """Let another process at it."""
        os.close(self._descriptor)


def _unfinished(gathering: Gathering) -> list[Path]:
    return sorted(gathering.folder.glob(gathering.path_of_shard("*").name))


def _keep(path: Path, done: Collection[int]) -> None:
    """Take out of an unfinished shard what is not done."""
    found = scan(path)
    if kept := found.keys() & done:
        if len(kept) == len(found):
            return
        temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
        temporary.unlink(missing_ok=True)
        for number in sorted(kept):
            for acquisition, places in found[number].items():
                files = {name: read(path, where) for name, where in places.items()}
                append(temporary, Parcel(id=number, acquisition=acquisition, files=files))
        temporary.replace(path)
    else:
        path.unlink()


def _locked(path: Path) -> int:
    """Return a lock, which the kernel takes back when the process ends."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StorageError(
            f"{path} can't be made: {error.strerror}. Name a folder that may be yours."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ShardError(
            f"{path.parent} is being collected into by another process; with --shards there is one "
            "at a time. Wait for it, or collect a tree, which many can."
        ) from error
    return descriptor
