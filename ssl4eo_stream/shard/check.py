"""One shard, read from front to back: is it what manifest and index say, and sound in itself?

One that is what they say is known as such by sums alone, after one reading at the speed of hashing.
One that is not, or that they don't vouch for together, is read as a tar, to say what is wrong.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ssl4eo_stream.errors import MissingError, ShardError, SourceError, StorageError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.pack import StoppedError
from ssl4eo_stream.shard.processes import stopped
from ssl4eo_stream.shard.said import ShardToCheck, is_as_said, shapes_of, sums_of
from ssl4eo_stream.store import Store
from ssl4eo_stream.strips import Page, read_pages
from ssl4eo_stream.tars import TarMember, TarReader


@dataclass(kw_only=True)
class Checked:
    """What was found."""

    number: int
    """Shard number."""
    name: str
    """File name."""
    bytes: int = 0
    """Bytes of it that were read."""
    damage: list[str] = field(default_factory=list)
    """What is wrong with it, whatever manifest and index say."""
    unlike_manifest: list[str] = field(default_factory=list)
    """What the manifest's line says otherwise."""
    unlike_form: list[str] = field(default_factory=list)
    """What the manifest says otherwise of all GeoTIFFs."""
    unlike_index: list[str] = field(default_factory=list)
    """What the index says otherwise."""


def check_shard(task: ShardToCheck) -> Checked:
    """Read every byte of a shard.

    Returns:
        What is wrong with it; that it can't be read is among that.

    Raises:
        StoppedError: The pool that this process belongs to is at its end.
    """
    found = Checked(number=task.number, name=task.name)
    try:
        store = Store.open(task.url)
        found.bytes = store.head(task.name).size
        if is_as_said(store, task, size=found.bytes):
            return found
        reader = TarReader(store, task.name, size=found.bytes)
        contents = _Contents(task, found)
        try:
            for member in reader:
                if stopped():
                    raise StoppedError
                contents.add(member)
        except ShardError as error:
            text = str(error).removeprefix(f"{reader.url} ").removesuffix(" Copy it again.")
            found.damage.append(f"it {text.rstrip('.')}")
            reader.read_to_end()
        contents.finish()
    except MissingError:
        found.damage.append("it is missing")
        return found
    except StorageError as error:
        found.damage.append(f"it can't be read: {str(error).rstrip('.')}")
        return found
    if task.entry is None:
        found.unlike_manifest.append("it is not in the manifest")
    elif found.bytes != task.entry.bytes:
        found.unlike_manifest.append(
            f"it has {found.bytes} bytes, the manifest says {task.entry.bytes}"
        )
    elif reader.sha256 != task.entry.sha256:
        found.unlike_manifest.append("its sha256 is not the manifest's")
    return found


class _Contents:
    """Holds the members of one shard against what is said of them, as they come."""

    def __init__(self, task: ShardToCheck, found: Checked) -> None:
        self._found, self._pages, self._listed = found, task.pages, None
        if (listed := task.listed) is not None:
            self._listed = dict(
                zip(
                    zip(listed.ids.tolist(), listed.dates.tolist(), strict=True),
                    zip(
                        listed.offsets.tolist(),
                        listed.page_ends.tolist(),
                        listed.page_crc32c.tolist(),
                        strict=True,
                    ),
                    strict=True,
                )
            )
            if not self._listed:
                found.unlike_index.append("the index has none of its locations")

    def add(self, member: TarMember) -> None:
        """Look at the next member."""
        if member.date is None:
            self._found.damage += _json(member)
            return
        place = member.id, member.date
        if self._listed is None:
            self._found.damage += self._of_pages(member, ends=None)
        elif place not in self._listed:
            self._found.unlike_index.append(f"member {member.name} is not in the index")
        else:
            self._compare(member, *self._listed.pop(place))

    def finish(self) -> None:
        """Look at what did not come."""
        if self._listed:
            (number, date), *_ = self._listed
            self._found.unlike_index.append(
                f"{len(self._listed)} GeoTIFFs of the index are not in it, the first "
                f"{location_key(number)}.t{date}.tif"
            )

    def _compare(
        self, member: TarMember, offset: int, ends: Sequence[int], crc32c: Sequence[int]
    ) -> None:
        data, unlike = member.data, self._found.unlike_index
        if (member.offset, len(data)) != (offset, ends[-1]):
            unlike.append(
                f"member {member.name} has {len(data)} bytes at {member.offset}, the index says "
                f"{ends[-1]} at {offset}"
            )
            return
        sums = sums_of(data, ends)
        if sums[-1] != crc32c[-1]:
            unlike.append(f"member {member.name} at byte {offset}: crc32c is not the index's")
        elif sums != crc32c:
            unlike.append(f"member {member.name}: its pages do not sum up as the index says")
        else:
            unlike += self._of_pages(member, ends=ends)

    def _of_pages(self, member: TarMember, *, ends: Sequence[int] | None) -> Iterator[str]:
        """Yield what is wrong with a GeoTIFF's headers; no pixel is decoded."""
        try:
            pages = read_pages(member.data, name=f"member {member.name}", georeference=False)
        except SourceError as error:
            self._found.damage.append(str(error).removesuffix(" Download it again.").rstrip("."))
            return
        shapes = shapes_of(pages)
        if self._pages is not None and shapes != self._pages and not self._found.unlike_form:
            self._found.unlike_form.append(
                f"member {member.name} has pages {shapes}, the manifest has {self._pages}"
            )
        elif ends is not None and not _ends_are(ends, pages, length=len(member.data)):
            yield f"member {member.name}: its pages do not end as the index says"


def _ends_are(ends: Sequence[int], pages: Sequence[Page], *, length: int) -> bool:
    """Whether the index's beginnings are those that `prefixes` finds, or all of the file."""
    if len(ends) != len(pages):
        return False
    needed = 0
    for end, page in zip(ends, pages, strict=True):
        starts_and_lengths = zip(page.strip_offsets, page.strip_lengths, strict=True)
        needed = max(needed, *(start + size for start, size in starts_and_lengths))
        if end not in (needed, length):
            return False
    return ends[-1] == length


def _json(member: TarMember) -> Iterator[str]:
    try:
        number = json.loads(member.data).get("id", member.id)
        if int(number) != member.id:
            yield f"member {member.name} is of location {location_key(int(number))}"
    except (ValueError, AttributeError, TypeError) as error:
        yield f"member {member.name} is not the JSON of a location: {error!r}"
