"""Archives of a GeoTIFF tree -> parcels: what an archive holds of one date of one place, in a row.

`s2_l1c.tar.gz`, its pieces `s2_l1c.tar.gz.part*`, a plain `.tar`; local, or on object storage.
Members never touch the disk: one parcel, and what was read ahead, is all there is at a time.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from gzip import BadGzipFile
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from isal import igzip
from isal.igzip_lib import IsalError

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.shard.source import ID, METADATA
from ssl4eo_stream.store import Store
from ssl4eo_stream.tars import list_objects

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ARCHIVE = re.compile(r".*\.(?:tar|tgz|tar\.gz)(?:\.part[^/]*)?", re.IGNORECASE)
"""What the name of an archive, or of a piece of one, looks like."""
GZIP = b"\x1f\x8b"
"""How gzip files begin (RFC 1952)."""
DAMAGES = (tarfile.TarError, EOFError, BadGzipFile, cast("type[Exception]", IsalError))
"""What reading a damaged archive raises."""
RANGE_BYTES = 8 << 20
"""Bytes of one read of the archive."""
BLOCK_BYTES = 1 << 20
"""What `tarfile` takes at a time of the inflated archive."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """Consecutive members of an archive that belong to one date of one place."""

    id: int
    """Location id."""
    acquisition: str
    """Name of the date's folder."""
    files: dict[str, bytes]
    """Its files, or some of them: name in that folder -> content."""


class TruncatedError(SourceError):
    """The archive ends too early; what came before is good.

    Attributes:
        place: Location id that was being read, if there was one yet.
    """

    place: int | None = None


class Archive:
    """One archive, in one piece or several, that is read front to back.

    Attributes:
        name: What messages call it.
        identity: Names, sizes and versions of its pieces: changes when the archive does.
        bytes: Size of all pieces.
    """

    def __init__(self, location: str) -> None:
        """Find the pieces; nothing of them is read yet.

        Args:
            location: Path or URL of the archive, or of its pieces by a pattern with `*`.

        Raises:
            SourceError: There is no such piece, or one is missing between others.
            StorageError: The storage can't be read.
        """
        self.name = location.rpartition("/")[2]
        folder = location.rpartition("/")[0] or ("/" if location.startswith("/") else ".")
        self._store = Store.open(folder)
        if "*" in self.name:
            sizes = list_objects(self._store)
            names = [name for name in sizes if fnmatchcase(name, self.name)]
            names.sort(key=lambda name: (len(name), name))  # part9 before part10
            self._pieces = {name: sizes[name] for name in names}
            _refuse_gaps(list(self._pieces), pattern=self.name)
        else:
            self._pieces = {self.name: self._store.head(self.name).size}
        if not self._pieces:
            raise SourceError(f"{self._store.url} holds no {self.name}. Check the name.")
        self.bytes = sum(self._pieces.values())
        self.identity = "".join(f"{name} {size}\n" for name, size in self._pieces.items())

    def parcels(
        self,
        *,
        wanted: Callable[[int, str, str], bool],
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Parcel]:
        """Yield what the archive holds, in its order.

        Args:
            wanted: (location id, acquisition, file name) -> whether to yield this member.
            on_bytes: Called with the number of bytes of the archive that have been read.

        Raises:
            TruncatedError: The archive ends in the middle, or is damaged from here on.
            StorageError: It can't be read.
        """
        place: tuple[int, str] | None = None
        files: dict[str, bytes] = {}
        with _Pieces(self._store, self._pieces, on_bytes=on_bytes) as pieces:
            for where, file, data in self._members(pieces, wanted=wanted):
                if where != place:
                    if place and files:
                        yield Parcel(id=place[0], acquisition=place[1], files=files)
                    place, files = where, {}
                files[file] = data
        if place and files:
            yield Parcel(id=place[0], acquisition=place[1], files=files)

    def _members(
        self, pieces: io.RawIOBase, *, wanted: Callable[[int, str, str], bool]
    ) -> Iterator[tuple[tuple[int, str], str, bytes]]:
        """Yield ((id, acquisition), file name, content) of the members of dates."""
        last, number = "its beginning", None
        try:
            buffered = io.BufferedReader(pieces, RANGE_BYTES)
            zipped = buffered.peek(2)[:2] == GZIP
            file = igzip.GzipFile(fileobj=buffered) if zipped else buffered
            with tarfile.open(fileobj=file, mode="r|", bufsize=BLOCK_BYTES) as tar:
                for info in tar:
                    cast("Any", tar).members.clear()  # a list of 14 million, otherwise
                    place = place_in_tree(info.name)
                    if place is None or not info.isreg():
                        continue
                    number, acquisition, name = place
                    if wanted(number, acquisition, name):
                        content = tar.extractfile(info)
                        assert content is not None, "a regular member has data"
                        yield (number, acquisition), name, content.read()
                    last = info.name
                end = tar.offset
            if file.read(1):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError(f"there is no tar header at byte {end}")
        except DAMAGES as error:
            cut = TruncatedError(
                f"{self._store.url}/{self.name} is cut or damaged behind {last}: {error}. What "
                "came before is kept: run the same command again when the archive is whole, or "
                "with --on-missing skip to do without the rest."
            )
            cut.place = number
            raise cut from error


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


class _Pieces(io.RawIOBase):
    """The pieces as one file that can only be read on; the next range is fetched meanwhile."""

    def __init__(
        self, store: Store, sizes: dict[str, int], *, on_bytes: Callable[[int], None]
    ) -> None:
        super().__init__()
        self._store = store
        self._ranges = (
            (name, start, min(start + RANGE_BYTES, size))
            for name, size in sizes.items()
            for start in range(0, size, RANGE_BYTES)
        )
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="archive")
        self._next = self._ask()
        self._data = memoryview(b"")
        self._read, self._on_bytes = 0, on_bytes

    def _ask(self) -> Future[memoryview] | None:
        found = next(self._ranges, None)
        if found is None:
            return None
        name, start, end = found
        return self._ahead.submit(self._store.read_range, name, start=start, end=end)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer as far as the range at hand goes; 0 at the end."""
        if not self._data and self._next is not None:
            self._data = self._next.result()
            self._read += len(self._data)
            self._on_bytes(self._read)
            self._next = self._ask()
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._data))
        target[:count] = self._data[:count]
        self._data = self._data[count:]
        return count

    def close(self) -> None:
        """Stop reading ahead."""
        self._store.stop()
        self._ahead.shutdown(cancel_futures=True)
        super().close()
