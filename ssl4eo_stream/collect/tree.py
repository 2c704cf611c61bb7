"""A tree of GeoTIFFs as SSL4EO-S12 is published: `{s1,s2a,s2c}/{id}/{acquisition}/{BAND}.tif`.

A location is written beside the tree, in the hidden folder `.unfinished`, and its products' folders
are then renamed into their places: whatever ends the process, every folder named by an id holds all
dates and bands of its product. Files are handed to the operating system, not forced to the disk: a
power cut can lose what was written in the last half minute.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from ssl4eo_stream.bands import ProductName
from ssl4eo_stream.collect.taken import Place, Taken, check_names, files_of
from ssl4eo_stream.errors import StorageError
from ssl4eo_stream.sample import location_key

UNFINISHED = ".unfinished"


class Tree:
    """Keeps locations in a tree.

    Args:
        dest: Its folder; made if missing.
        products: What it holds of each location.
    """

    def __init__(self, dest: Path, *, products: Sequence[ProductName]) -> None:
        self._dest, self._products = dest, products

    def write(
        self, place: Place, taken: Mapping[ProductName, Sequence[Taken]], *, source: str
    ) -> None:
        """Write all of a location, over what may be there of it.

        Raises:
            ServiceError: Two dates of a product have the same name.
            StorageError: It can't be written.
        """
        check_names(taken, place=place)
        try:
            self._clear(place)
            room = self._room(place)
            for product, dates in taken.items():
                for each in dates:
                    folder = room / product / each.scene.name
                    folder.mkdir(parents=True)
                    for name, data in files_of(each, place=place, source=source).items():
                        (folder / name).write_bytes(data)
            for product in taken:
                (self._dest / product).mkdir(exist_ok=True)
                (room / product).rename(self._dest / product / location_key(place.id))
            room.rmdir()
        except OSError as error:
            raise _told(self._dest, error) from error

    def discard(self, place: Place) -> None:
        """Remove what may be there of a location.

        Raises:
            StorageError: It can't be removed.
        """
        try:
            self._clear(place)
        except OSError as error:
            raise _told(self._dest, error) from error

    def close(self) -> None:
        """Remove the hidden folder if nothing is in it."""
        try:
            (self._dest / UNFINISHED).rmdir()
        except OSError:
            return  # another process is at work in it, or left something to be redone

    def _room(self, place: Place) -> Path:
        room = self._dest / UNFINISHED / f"{location_key(place.id)}-{uuid4().hex[:8]}"
        room.mkdir(parents=True)
        return room

    def _clear(self, place: Place) -> None:
        """Remove a location: first out of the tree at once, then from the disk."""
        key = location_key(place.id)
        there = [folder for p in self._products if (folder := self._dest / p / key).exists()]
        if there:
            room = self._room(place)
            for folder in there:
                folder.rename(room / folder.parent.name)
        for room in (self._dest / UNFINISHED).glob(f"{key}-*"):
            shutil.rmtree(room)


def _told(dest: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{error.filename or dest} can't be written: {error.strerror or error}. Free space or give "
        "permission, and run the same command again: it goes on where it stopped."
    )
