"""Tars of locations, whoever made them: which ones a URL means, and what one holds.

Members are `KEY.tN.tif`, a GeoTIFF for date N of a location, and `KEY.json`, facts about it, if
there are any; KEY is a number. Folders within a tar don't count, other members are passed over.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from braceexpand import braceexpand

from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.retry import Progress
from ssl4eo_stream.store import Store, as_url

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RANGE_BYTES = 16 << 20
"""Bytes of one read: storage gives a connection about 90 MB/s whatever is asked for beyond."""
CONNECTIONS = 16
"""Requests at a time for the sizes of tars that are named one by one."""
BLOCK_BYTES = 256 << 10
"""What `tarfile` takes at a time; it copies what it has left for every member."""
_MEMBER = re.compile(r"(?:.*/)?([0-9]{1,15})\.(?:t([0-9]{1,4})\.tif|json)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Tars:
    """Tars that lie in one folder."""

    url: str
    """The folder, credentials and all: never shown."""
    store: Store
    """The same, opened."""
    sizes: dict[str, int]
    """File name -> bytes, in order."""


def find_tars(url: str, *, options: Mapping[str, Any] | None = None) -> Tars:
    """Find the tars that a URL means.

    Args:
        url: A folder, for all `*.tar` in it; or a tar, or several by a pattern in braces:
            `https://host/s2c-{000000..000489}.tar`.
        options: obstore's configuration, over what the environment says.

    Raises:
        ShardError: There are none, or the folder can't be listed.
        StorageError: The storage can't be read.
    """
    text = url.rstrip("/")
    folder, slash, last = text.rpartition("/")
    if not last.endswith(".tar"):
        store = Store.open(url, options=options)
        if store.url.startswith(("http://", "https://")):
            raise ShardError(
                f"{store.url} can't be listed over HTTP. Name the tars in the URL: "
                f"{store.url}/s2c-{{000000..000489}}.tar."
            )
        sizes = {n: size for n, size in list_objects(store).items() if n.endswith(".tar")}
        if not sizes:
            raise ShardError(f"{store.url} holds no *.tar. Give the folder that holds the shards.")
        return Tars(url=as_url(url), store=store, sizes=sizes)
    try:
        names = list(braceexpand(last))
    except ValueError as error:
        raise ShardError(f"{last}: {error}. Write s2c-{{000000..000489}}.tar.") from error
    if len(set(names)) < len(names):
        raise ShardError(f"{last} names a tar twice.")
    folder = folder or slash or "."
    store = Store.open(folder, options=options)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        sizes = list(pool.map(lambda name: store.head(name).size, names))
    return Tars(url=folder, store=store, sizes=dict(zip(names, sizes, strict=True)))


def list_objects(store: Store, *, inside: str = "") -> dict[str, int]:
    """Return what lies in this very folder, without what lies in folders of it: name -> bytes.

    Args:
        store: The folder.
        inside: A folder in it, to look into that.

    Raises:
        StorageError: It can't be listed.
    """
    progress = Progress(what=store.url, policy=store.retrier.policy, verb="list")
    found: dict[str, int] = {}

    def ask() -> None:
        progress.begin()
        answer = store.once(
            lambda: store.handle.list_with_delimiter(inside or None),
            what=f"Cannot list {progress.what}",
        )
        found.update((each["path"].rpartition("/")[2], each["size"]) for each in answer["objects"])

    store.retrier.run(ask, progress=progress)
    return {name: found[name] for name in sorted(found)}


def place_of(name: str) -> tuple[int, int | None] | None:
    """Return a member's location id and number of the date (None for JSON), if it has such."""
    match = _MEMBER.fullmatch(name)
    return match and (int(match[1]), None if match[2] is None else int(match[2]))


@dataclass(frozen=True, kw_only=True)
class TarMember:
    """One member that belongs to a location."""

    name: str
    """Its name in the tar."""
    id: int
    """Location id."""
    date: int | None
    """Number of the date whose GeoTIFF it is; None for the location's JSON."""
    offset: int
    """First byte of its data in the tar."""
    data: bytes
    """Its data."""


class TarReader:
    """Reads a tar once, front to back, in memory for one range and one member.

    Attributes:
        url: Where it lies.
        ignored: Names of members that belong to no location; complete after the iteration.
    """

    def __init__(self, store: Store, name: str, *, size: int) -> None:
        self.url = f"{store.url}/{name}"
        self.ignored: list[str] = []
        self._file = _Ranges(store, name, size=size)

    @property
    def sha256(self) -> str:
        """Hash of the tar, hexadecimal, after the iteration."""
        return self._file.sha256.hexdigest()

    def read_to_end(self) -> None:
        """Read what is left, for its hash alone: of a damaged tar, say.

        Raises:
            StorageError: It can't be read.
        """
        self._file.read_to_end()

    def __iter__(self) -> Iterator[TarMember]:
        """Yield the members of locations in the order of the tar.

        Raises:
            ShardError: It is not a tar, or cut, or damaged.
            StorageError: It can't be read.
        """
        try:
            with tarfile.open(fileobj=self._file, mode="r|", bufsize=BLOCK_BYTES) as tar:
                for info in tar:
                    place = place_of(info.name)
                    if place is None or not info.isreg() or info.issparse():
                        self.ignored += [] if info.isdir() else [info.name]
                        continue
                    file = tar.extractfile(info)
                    assert file is not None, "a regular member has data"
                    yield TarMember(
                        name=info.name,
                        id=place[0],
                        date=place[1],
                        offset=info.offset_data,
                        data=file.read(),
                    )
                end = tar.offset
        except tarfile.TarError as error:
            raise ShardError(f"{self.url} is no tar, or cut: {error}. Copy it again.") from error
        # tarfile takes a damaged header, or no end at all, for the end.
        self.read_to_end()
        if self._file.last_content > end:
            raise ShardError(
                f"{self.url} is damaged: there is no tar header at byte {end}. Copy it again."
            )
        if self._file.size < end + tarfile.BLOCKSIZE:
            raise ShardError(
                f"{self.url} is cut: no empty block ends the tar at byte {end}. Copy it again."
            )


class _Ranges(io.RawIOBase):
    """A file that can only be read on, in large ranges of an object."""

    def __init__(self, store: Store, name: str, *, size: int) -> None:
        super().__init__()
        self._store, self._name, self.size = store, name, size
        self.sha256 = hashlib.sha256()
        self.last_content = 0
        """Where the zeros begin that end what has been read."""
        self._position = 0
        self._data = b""
        self._used = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer as far as the range at hand goes; 0 at the end."""
        if self._used == len(self._data):
            self._data, self._used = self._next(), 0
        target = memoryview(buffer)
        count = min(len(target), len(self._data) - self._used)
        target[:count] = self._data[self._used : self._used + count]
        self._used += count
        return count

    def read_to_end(self) -> None:
        """Read what is left."""
        while self._next():
            pass

    def _next(self) -> bytes:
        start, end = self._position, min(self._position + RANGE_BYTES, self.size)
        if start == end:
            return b""
        data = bytes(self._store.read_range(self._name, start=start, end=end))
        self._position = end
        self.sha256.update(data)
        if content := data.rstrip(b"\0"):
            self.last_content = start + len(content)
        return data
