"""A tar that is read front to back: regular members, each into a buffer of the caller's choice.

Headers of plain files and folders are read here, in a quarter of `tarfile`'s time; of every other
kind (long names, extended headers, sparse files) the same bytes are given to `tarfile`.
"""

import io
import tarfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

from ssl4eo_stream.strips import Buffer

BLOCK = tarfile.BLOCKSIZE
REST_BYTES = 1 << 20
"""What is read at a time of what is not wanted."""
POSIX = b"ustar\x0000"
"""Magic and version of POSIX headers, whose names may have a second part; GNU's differ."""
BINARY = 0x80
"""First byte of a size that is not written in digits: from 8 GiB on."""
REGULAR, FOLDER, LONG_NAME = frozenset((b"0", b"\0")), b"5", b"L"


def regular_members(
    file: io.BufferedIOBase,
    *,
    wanted: Callable[[str, int], bool | memoryview],
) -> Iterator[tuple[str, Buffer | None]]:
    """Yield name and content of regular members, in their order; None for what is passed over.

    Args:
        file: The tar, from its beginning.
        wanted: Called with name and size: False, and the member is passed over; True, and its
            content comes as bytes; or a buffer of that size, and it comes there.

    Raises:
        tarfile.TarError: The tar ends in the middle of something, or is damaged from here on.
    """
    position = 0
    while True:
        header = file.read(BLOCK)
        if len(header) < BLOCK:
            raise tarfile.ReadError(f"unexpected end of data at byte {position + len(header)}")
        if not header.strip(b"\0"):
            return _refuse_rest(file, position)
        _check(header, position)
        position += BLOCK
        kind = header[156:157]
        name = _name(header)
        if kind in REGULAR and not name.endswith("/") and header[124] < BINARY:
            size = _number(header[124:136], position)
            where = wanted(name, size)
            if where is False:
                _skip(file, size)
                yield name, None
            else:
                yield name, _content(file, size, where)
            _skip(file, -size % BLOCK)
            position += size + -size % BLOCK
        elif kind == FOLDER:
            pass
        else:
            name, data, length = _by_tarfile(header, file, wanted=wanted)
            if name:
                yield name, data
            position += length - BLOCK


def plain_headers(file: io.BufferedReader) -> Iterator[tuple[str, int, int]]:
    """Yield name, first byte and size of the members of a tar of plain files, without reading them.

    Args:
        file: What the tar has so far, in `tarfile.GNU_FORMAT`; may be moved about in between.

    Raises:
        tarfile.TarError: It is damaged from here on.
    """
    position, long_name = 0, ""
    while len(header := _at(file, position, BLOCK)) == BLOCK:
        _check(header, position)
        position += BLOCK
        size = _number(header[124:136], position)
        if header[156:157] == LONG_NAME:
            long_name = _at(file, position, size).rstrip(b"\0").decode("utf-8", "surrogateescape")
        else:
            yield long_name or _name(header), position, size
            long_name = ""
        position += size + -size % BLOCK


def _at(file: io.BufferedReader, position: int, size: int) -> bytes:
    """Read on from a position."""
    file.seek(position)
    return file.read(size)


def _check(header: bytes, position: int) -> None:
    """Refuse a block whose checksum is wrong; its own eight bytes count as spaces."""
    counted = header[:148] + header[156:]
    found = sum(counted) + 8 * ord(" ")
    said = _number(header[148:156], position)
    if said != found and said != found - 256 * sum(byte > 127 for byte in counted):  # signed bytes
        raise tarfile.ReadError(f"there is no tar header at byte {position}")


def _number(field: bytes, position: int) -> int:
    """Return a number of a header."""
    digits = field.partition(b"\0")[0].strip()
    try:
        return int(digits or b"0", 8)
    except ValueError as error:
        raise tarfile.ReadError(f"there is no tar header at byte {position}") from error


def _name(header: bytes) -> str:
    """Return the name of a member as `tarfile` does."""
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:265] == POSIX else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "surrogateescape")


def _content(file: io.BufferedIOBase, size: int, where: bool | memoryview) -> Buffer:
    """Read a member."""
    if isinstance(where, memoryview):
        done = 0
        while done < size:
            count = file.readinto(where[done:])
            if not count:
                raise tarfile.ReadError("unexpected end of data")
            done += count
        return where
    data = file.read(size)
    if len(data) < size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _skip(file: io.BufferedIOBase, size: int) -> None:
    """Read on."""
    while size:
        count = len(file.read(min(size, REST_BYTES)))
        if not count:
            raise tarfile.ReadError("unexpected end of data")
        size -= count


def _refuse_rest(file: io.BufferedIOBase, position: int) -> None:
    """Behind the end are only zeros; a damaged header would look like it otherwise."""
    while rest := file.read(REST_BYTES):
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"there is no tar header at byte {position}")
        position += len(rest)


class _From(io.RawIOBase):
    """A file from a block on that was read already."""

    def __init__(self, block: bytes, file: io.BufferedIOBase) -> None:
        super().__init__()
        self._block, self._file, self.bytes = block, file, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill a buffer."""
        target = memoryview(buffer).cast("B")
        data = self._block or self._file.read(len(target))
        self._block = b""
        target[: len(data)] = data
        self.bytes += len(data)
        return len(data)


def _by_tarfile(
    header: bytes, file: io.BufferedIOBase, *, wanted: Callable[[str, int], bool | memoryview]
) -> tuple[str, Buffer | None, int]:
    """Have `tarfile` read one member.

    Returns:
        Its name, or none if it is no regular one; its content, if it is wanted; and the bytes that
        it took.
    """
    rest = _From(header, file)
    # a buffer of one block, or it would take what belongs to the next member
    with tarfile.open(fileobj=rest, mode="r|", bufsize=BLOCK) as tar:
        info = tar.next()
        if info is None:
            raise tarfile.ReadError("unexpected end of data")
        where = info.isreg() and wanted(info.name, info.size)
        data = None
        if where is not False:
            member = tar.extractfile(info)
            assert member is not None, "a regular member has data"
            data = member.read()
            if isinstance(where, memoryview):
                where[:] = data
                data = where
        _skip(file, max(0, tar.offset - rest.bytes))
        return info.name if info.isreg() else "", data, max(tar.offset, rest.bytes)
