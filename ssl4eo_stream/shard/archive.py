"""Archives -> members, and of a GeoTIFF tree parcels: what is in a row of one date of one place.

`s2_l1c.tar.gz`, its pieces `s2_l1c.tar.gz.part*`, a plain `.tar`; local, or on object storage.
Members never touch the disk: one parcel, and what was read ahead, is all there is at a time.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from gzip import BadGzipFile
from itertools import pairwise
from pathlib import Path
from typing import cast

from isal import igzip
from isal.igzip_lib import IsalError

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.shard.pieces import RANGE_BYTES, Pieces
from ssl4eo_stream.shard.room import Room, Slice
from ssl4eo_stream.shard.source import ID, METADATA
from ssl4eo_stream.shard.tar_stream import regular_members
from ssl4eo_stream.store import Store
from ssl4eo_stream.strips import Buffer
from ssl4eo_stream.tars import list_objects

ARCHIVE = re.compile(r".*\.(?:tar|tgz|tar\.gz)(?:\.part[^/]*)?", re.IGNORECASE)
"""What the name of an archive, or of a piece of one, looks like."""
GZIP = b"\x1f\x8b"
"""How gzip files begin (RFC 1952)."""
DAMAGES = (tarfile.TarError, EOFError, BadGzipFile, cast("type[Exception]", IsalError))
"""What reading a damaged archive raises."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Files that belong to one date of one place, or some of them."""

    id: int
    """Location id."""
    acquisition: str
    """Name of the date's folder."""
    files: dict[str, bytes]
    """Name in that folder -> content."""


@dataclass(frozen=True, kw_only=True)
class RawParcel:
    """Consecutive members of an archive that belong to one date of one place."""

    id: int
    """Location id."""
    acquisition: str
    """Name of the date's folder."""
    files: Mapping[str, bytes | Slice]
    """Name in that folder -> content, or where in the room that lies."""


class TruncatedError(SourceError):
    """The archive ends too early; what came before is good.

    Attributes:
        place: Location id that was being read, if it is known.
    """

    place: int | None = None


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One archive, in one piece or several, that is read front to back."""

    folder: str
    """Path or URL of the folder that it lies in."""
    name: str
    """What messages call it."""
    pieces: dict[str, int]
    """Name -> bytes of each piece, in order."""

    @classmethod
    def find(cls, location: str) -> "Archive":
        """Find the pieces; nothing of them is read yet.

        Args:
            location: Path or URL of the archive, or of its pieces by a pattern with `*`.

        Raises:
            SourceError: There is no such piece, or one is missing between others.
            StorageError: The storage can't be read.
        """
        folder, name = split(location)
        if "*" in name:
            pieces = matching(folder, name)
            _refuse_gaps(list(pieces), pattern=name)
        else:
            pieces = {name: Store.open(folder).head(name).size}
        return cls(folder=folder, name=name, pieces=pieces)

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(self.pieces.values())

    @property
    def identity(self) -> str:
        """Names and sizes of its pieces: changes when the archive does."""
        return "".join(f"{name} {size}\n" for name, size in self.pieces.items())

    def parcels(
        self,
        *,
        wanted: Callable[[int, str, str], bool],
        room: Room | None = None,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Iterator[RawParcel]:
        """Yield what an archive of a tree holds, in its order.

        Args:
            wanted: (location id, acquisition, file name) -> whether to yield this member.
            room: Where the files go, a slot a parcel; a slot is filled before the parcel of the
                one before is yielded.
            on_bytes: Called with the number of bytes of the archive that have been read.

        Raises:
            TruncatedError: The archive ends in the middle, or is damaged from here on.
            StorageError: It can't be read.
        """
        number: int | None = None
        place: tuple[int, str] | None = None
        files: dict[str, bytes | Slice] = {}
        ended: list[RawParcel] = []

        def begin(following: tuple[int, str] | None) -> None:
            """Go on to another date, or to none."""
            nonlocal place, files
            if place and files:
                ended.append(RawParcel(id=place[0], acquisition=place[1], files=files))
                if room:
                    room.turn()
            place, files = following, {}

        def where(name: str, size: int) -> bool | memoryview:
            nonlocal number
            found = place_in_tree(name)
            if found is None:
                return False
            number = found[0]
            if not wanted(*found):
                return False
            if found[:2] != place:
                begin(found[:2])
            slot = room.take(size) if room else None
            if room is None or slot is None:
                return True
            files[found[2]] = slot
            return room[slot]

        try:
            for name, data in self._members(wanted=where, on_bytes=on_bytes):
                if isinstance(data, bytes):
                    files[name.rpartition("/")[2]] = data
                yield from ended
                ended.clear()
        except TruncatedError as error:
            yield from ended
            error.place = number
            raise
        begin(None)
        yield from ended

    def members(
        self,
        *,
        wanted: Callable[[str], bool],
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of regular members, in their order.

        Args:
            wanted: Name -> whether to yield this member.
            on_bytes: Called with the number of bytes of the archive that have been read.

        Raises:
            TruncatedError: The archive ends in the middle, or is damaged from here on.
            StorageError: It can't be read.
        """
        for name, data in self._members(wanted=lambda name, _: wanted(name), on_bytes=on_bytes):
            yield name, bytes(data)

    def _members(
        self,
        *,
        wanted: Callable[[str, int], bool | memoryview],
        on_bytes: Callable[[int], None],
    ) -> Iterator[tuple[str, Buffer]]:
        """Yield name and content of regular members, into buffers where `wanted` gives such."""
        last = "its beginning"
        store = Store.open(self.folder)

        with Pieces(store, self.pieces, on_bytes=on_bytes) as pieces:
            try:
                buffered = io.BufferedReader(pieces, RANGE_BYTES)
                zipped = buffered.peek(2)[:2] == GZIP
                file = igzip.GzipFile(fileobj=buffered) if zipped else buffered
                for name, data in regular_members(cast("io.BufferedIOBase", file), wanted=wanted):
                    last = name
                    if data is not None:
                        yield name, data
            except DAMAGES as error:
                raise TruncatedError(
                    f"{store.url}/{self.name} is cut or damaged behind {last}: {error}. What "
                    "came before is kept: run the same command again when the archive is whole, "
                    "or with --on-missing skip to do without the rest."
                ) from error


def split(location: str) -> tuple[str, str]:
    """Return the folder that a path or URL lies in, and its name there."""
    folder, slash, name = location.rpartition("/")
    return folder or slash or ".", name


def matching(folder: str, pattern: str) -> dict[str, int]:
    """Return the objects of a folder that a pattern with `*` means: name -> bytes.

    Raises:
        SourceError: There is none.
        StorageError: The folder can't be listed.
    """
    store = Store.open(folder)
    sizes = list_objects(store)
    names = [name for name in sizes if fnmatchcase(name, pattern)]
    if not names:
        raise SourceError(f"{store.url} holds no {pattern}. Check the name.")
    names.sort(key=lambda name: (len(name), name))  # part9 before part10
    return {name: sizes[name] for name in names}


def place_in_tree(name: str) -> tuple[int, str, str] | None:
    """Return (location id, acquisition, file) of a member …/0012345/ACQUISITION/B1.tif."""
    parts = name.rsplit("/", 3)
    if len(parts) < 3 or not ID.fullmatch(parts[-3]):
        return None
    _, acquisition, file = parts[-3:]
    if not file.endswith(".tif") and file != METADATA:
        return None
    return int(parts[-3]), acquisition, file


def is_archive(location: str) -> bool:
    """Return whether a path or URL names an archive rather than a folder."""
    return ARCHIVE.fullmatch(location) is not None and not Path(location).is_dir()


def _refuse_gaps(names: list[str], *, pattern: str) -> None:
    """Pieces as `split` names them count up, in digits or letters; a gap is a piece not copied."""
    before, _, after = pattern.partition("*")
    endings = [name.removeprefix(before).removesuffix(after) for name in names]
    if all(re.fullmatch("[0-9]+", ending) for ending in endings):
        numbers = [int(ending) for ending in endings]
    elif all(re.fullmatch("[a-z]+", ending) for ending in endings):
        numbers = [
            sum((ord(c) - ord("a")) * 26**i for i, c in enumerate(reversed(ending)))
            for ending in endings
        ]
    else:
        return
    for (name, number), (other, following) in pairwise(zip(names, numbers, strict=True)):
        if following != number + 1:
            raise SourceError(
                f"{pattern}: {following - number - 1} pieces are missing between {name} and "
                f"{other}. Copy them too."
            )
