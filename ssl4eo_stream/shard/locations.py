"""Where a shard's locations come from: read, quantized and encoded, one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ssl4eo_stream.bands import Product
from ssl4eo_stream.geotiff import Codec, PageContent, write
from ssl4eo_stream.sample import Location
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.shard.source import Patch, read_location, read_patch


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A location, ready to be written."""

    location: Location
    """Where and when."""
    members: list[bytes]
    """The GeoTIFF of each date, in order of time."""
    bytes_read: int
    """Size of the source files read for it now."""


@runtime_checkable
class Locations(Protocol):
    """Where a shard's locations come from; travels to the process that writes it."""

    def ids(self) -> Sequence[int]:
        """Return their ids, in order."""
        ...

    def read(self, number: int) -> Packed:
        """Return one of them; raises SourceError if it can't be had whole."""
        ...

    def clear(self) -> None:
        """Remove what is of no use once the shard is written."""
        ...


@dataclass(frozen=True, kw_only=True)
class TreeLocations:
    """Locations of a tree of GeoTIFFs."""

    source: Path
    """Folder that holds the locations' folders."""
    folders: dict[int, str]
    """Location id -> folder name, in order of ids."""
    product: Product
    """Which product."""
    codec: Codec
    """How pixels are to be stored."""

    def ids(self) -> Sequence[int]:
        """Return their ids, in order."""
        return list(self.folders)

    def read(self, number: int) -> Packed:
        """Read and encode one.

        Raises:
            SourceError: It is broken.
        """
        location = read_location(self.source / self.folders[number], product=self.product)
        members, bytes_read = [], 0
        for acquisition in location.acquisitions:
            patch = read_patch(acquisition, product=self.product)
            members.append(encode(patch, product=self.product, codec=self.codec))
            bytes_read += patch.bytes_read
        return Packed(location=location, members=members, bytes_read=bytes_read)

    def clear(self) -> None:
        """Do nothing: the tree stays."""


def encode(patch: Patch, *, product: Product, codec: Codec) -> bytes:
    """Return a patch as the GeoTIFF of a shard: a page per native grid, finest first."""
    pages = []
    for grid, geo in zip(product.grids, patch.geo, strict=True):
        bands = [patch.bands[c] for c in grid.channels]
        if not codec.keeps_source_values:
            bands = [
                to_bytes(pixels, band=product.bands[c])
                for c, pixels in zip(grid.channels, bands, strict=True)
            ]
        names = " ".join(product.names[c] for c in grid.channels)
        pages.append(
            PageContent(
                bands=bands,
                geo=geo,
                description=f"{product.name} {names}",
            )
        )
    return write(pages, codec=codec)
