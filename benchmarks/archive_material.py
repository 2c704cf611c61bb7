"""A tree as published and archives of it, of any length, out of a few real and invented patches.

Location k is four patches: of the real tree if k is even, of `tools/make_sample.py` if odd, from
the first again after the last. The tree's files are hard links to one copy of each, so that ten
gigabytes take little room; an archive has all bytes of all its files and folders, in one gzip
stream, as `tar cz` writes it.
"""

import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, BinaryIO, Literal

import rasterio
from isal import isal_zlib

from ssl4eo_stream.bands import S2C
from ssl4eo_stream.shard.source import METADATA, list_ids, product_folder, read_location

DATES = 4
"""Dates per location, as published."""
LEVEL = 6
"""Of gzip: its default."""
GZIP_HEADER = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
"""Deflate, no name, no time (RFC 1952)."""
LAST_BLOCK = b"\x03\x00"
"""An empty block that ends a deflate stream."""
TIME = 1_660_000_000
MAKE_SAMPLE = Path(__file__).parent.parent / "tools" / "make_sample.py"

Layout = Literal["as published", "one strip", "deflated"]
Order = Literal["id", "random"]
LAYOUTS: tuple[Layout, ...] = ("as published", "one strip", "deflated")
"""Strips of 8 KB, GDAL's default, as the published files have them; one strip; one, compressed."""


@dataclass(frozen=True, kw_only=True)
class Grown:
    """A tree grown from a small one, and its archives; made on first use, kept for the next."""

    source: Path
    """The small tree: Sentinel-2 L1C, of four patches at least."""
    root: Path
    """Where everything is written."""
    layout: Layout
    """How the files store their pixels."""
    locations: int
    """How many to grow."""

    @property
    def _folder(self) -> Path:
        return self.root / self.layout.replace(" ", "-")

    @cached_property
    def names(self) -> list[str]:
        """Folder names of the locations, in order of ids."""
        return [f"{location:07d}" for location in range(self.locations)]

    @cached_property
    def places(self) -> list[list[Path]]:
        """Folders of four patches each, real and invented in turn, in the layout asked for."""
        real = [
            date.bands[0].parent
            for name in _locations(self.source)
            for date in read_location(name, product=S2C).acquisitions
        ]
        groups = [real[i : i + DATES] for i in range(0, len(real) - DATES + 1, DATES)]
        invented = self.root / "invented"
        options = ["--locations", str(len(groups)), "--dates", str(DATES), "--products", "s2c"]
        command = [sys.executable, str(MAKE_SAMPLE), str(invented), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        others = [sorted(name.iterdir()) for name in _locations(invented)]
        pairs = [place for pair in zip(groups, others, strict=True) for place in pair]
        return [
            [
                self._copy(date, self._folder / "files" / f"{place}-{number}")
                for number, date in enumerate(dates)
            ]
            for place, dates in enumerate(pairs)
        ]

    def _copy(self, date: Path, folder: Path) -> Path:
        """Store a patch's files in this layout."""
        if not (folder / METADATA).exists():
            folder.mkdir(parents=True, exist_ok=True)
            for band in S2C.names:
                _store(date / f"{band}.tif", folder / f"{band}.tif", layout=self.layout)
            shutil.copyfile(date / METADATA, folder / METADATA)
        return folder

    @cached_property
    def tree(self) -> Path:
        """The grown tree's folder, which holds s2c/."""
        tree = self._folder / f"tree-{self.locations}"
        if not tree.exists():
            growing = tree.with_name("growing")
            shutil.rmtree(growing, ignore_errors=True)
            for location, name in enumerate(self.names):
                for date, patch in enumerate(self.places[location % len(self.places)]):
                    day = f"2020{3 * date + 1:02d}01T100000"
                    folder = growing / "s2c" / name / f"{day}_{day}_T31TFJ"
                    folder.mkdir(parents=True)
                    for file in patch.iterdir():
                        (folder / file.name).hardlink_to(file)
            growing.rename(tree)
        return tree

    def archive(self, order: Order, *, zipped: bool = True) -> Path:
        """Return an archive of all locations; others go where the disk is short of room."""
        ending = "tar.gz" if zipped else "tar"
        path = self._folder / f"s2_l1c-{self.locations}-{order}.{ending}"
        if not path.exists():
            names = list(self.names)
            if order == "random":
                Random(0).shuffle(names)
            for other in self.root.glob("*/*.tar.gz"):
                if shutil.disk_usage(self.root).free < self.bytes:
                    other.unlink()
            growing = path.with_name(f"growing.{ending}")
            write_archive(growing, self.tree / "s2c", names)
            growing.rename(path)
            os.sync()  # or it would be written while somebody is measured
        return path

    @property
    def members(self) -> int:
        """Files and folders of an archive."""
        return self.locations * (1 + DATES * (1 + len(S2C.names) + 1))

    @cached_property
    def bytes(self) -> int:
        """Size of the tree's files, were they not shared."""
        return sum(
            sum(file.stat().st_size for patch in place for file in patch.iterdir())
            for place in (self.places[i % len(self.places)] for i in range(self.locations))
        )


def _locations(tree: Path) -> list[Path]:
    folder = product_folder(tree, product="s2c")
    return [folder / name for _, name in sorted(list_ids(folder).items())]


def _store(source: Path, target: Path, *, layout: Layout) -> None:
    """Write a band again, its pixels and georeference as they are."""
    with rasterio.open(source) as there:
        options: dict[str, Any] = {
            "driver": "GTiff", "width": there.width, "height": there.height, "count": 1,
            "dtype": there.dtypes[0], "crs": there.crs, "transform": there.transform,
        }  # fmt: skip
        if layout != "as published":
            options["blockysize"] = there.height
        if layout == "deflated":
            options |= {"compress": "deflate", "predictor": 2}
        with rasterio.open(target, "w", **options) as here:
            here.write(there.read())


def write_archive(path: Path, folder: Path, names: Sequence[str]) -> None:
    """Write a `.tar` or `.tar.gz` of some folders of a folder, in the order given.

    A file that several places share is deflated once: since each ends with a full flush, its bytes
    may follow any others. That costs the archive about a hundredth of its size.
    """
    with path.open("wb") as out:
        stream = _Stream(out, zipped=path.suffix == ".gz")
        ready: dict[int, tuple[bytes, bytes]] = {}
        for name in names:
            for place, folders, files in os.walk(folder / name):
                folders.sort()
                inner = Path(place).relative_to(folder.parent)
                stream.write(_header(f"{inner}/", 0))
                for file in sorted(files):
                    number = (Path(place) / file).stat().st_ino
                    if number not in ready:
                        data = (Path(place) / file).read_bytes()
                        ready[number] = data, stream.squeezed(_padded(data))
                    data, squeezed = ready[number]
                    stream.write(_header(f"{inner}/{file}", len(data)))
                    stream.write(_padded(data), squeezed)
        stream.write(bytes(2 * tarfile.BLOCKSIZE))
        stream.write(bytes(-stream.bytes % tarfile.RECORDSIZE))
        stream.finish()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
    info.size, info.mtime, info.mode = size, TIME, 0o755 if name.endswith("/") else 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


class _Stream:
    """Pieces one after another, as they are or as one gzip stream."""

    def __init__(self, out: BinaryIO, *, zipped: bool) -> None:
        self._out, self._zipped = out, zipped
        self._checksum = 0
        self.bytes = 0
        if zipped:
            out.write(GZIP_HEADER)

    def squeezed(self, data: bytes) -> bytes:
        """Return what stands for data in the file, wherever it comes."""
        if not self._zipped:
            return data
        deflate = zlib.compressobj(LEVEL, wbits=-zlib.MAX_WBITS)
        return deflate.compress(data) + deflate.flush(zlib.Z_FULL_FLUSH)

    def write(self, data: bytes, squeezed: bytes | None = None) -> None:
        """Append data, and what stands for it if that is known."""
        self._out.write(self.squeezed(data) if squeezed is None else squeezed)
        self._checksum = isal_zlib.crc32(data, self._checksum)
        self.bytes += len(data)

    def finish(self) -> None:
        """End the stream."""
        if self._zipped:
            self._out.write(LAST_BLOCK + struct.pack("<II", self._checksum, self.bytes % 2**32))
