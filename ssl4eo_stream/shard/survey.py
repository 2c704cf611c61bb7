"""One tar -> what an index must know of it: its locations, and what their GeoTIFFs are like."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.geotiff import Page, centre, read_pages
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.form import Form, codec_of, form_of
from ssl4eo_stream.shard.manifest import IndexRow, ShardEntry, index_table
from ssl4eo_stream.shard.prefixes import Prefixes, prefixes
from ssl4eo_stream.store import Store
from ssl4eo_stream.tars import TarMember, TarReader


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one tar holds."""

    rows: pa.Table
    """Its part of the index: its locations in the order of the tar."""
    entry: ShardEntry
    """Its line of the manifest."""
    form: Form
    """What its members have in common."""
    codecs: frozenset[str]
    """How their pixels are stored."""
    ignored: tuple[str, ...]
    """Members that belong to no location."""


@dataclass(frozen=True, kw_only=True)
class _Date:
    """One GeoTIFF of a location."""

    offset: int
    """First byte in the tar."""
    prefixes: Prefixes
    """Its beginnings, and their checksums."""
    page: Page
    """Its first page, which says where on Earth it lies."""


@dataclass(kw_only=True)
class _Location:
    """What has been seen of one location."""

    dates: dict[int, _Date] = field(default_factory=dict)
    """By the number in the member's name."""
    facts: dict[str, Any] | None = None
    """Its JSON."""


def survey(
    store: Store, name: str, *, size: int, number: int, product: str | None = None
) -> Survey:
    """Read a tar once and say what is in it.

    Args:
        store: The folder.
        name: File name of the tar.
        size: Its bytes.
        number: Shard number that it gets.
        product: Which product it has to be; found by its pages if not given.

    Raises:
        ShardError: The tar is damaged, or not one of GeoTIFFs of one product.
        StorageError: It can't be read.
    """
    reader = TarReader(store, name, size=size)
    locations: dict[int, _Location] = defaultdict(_Location)
    forms: dict[Form, str] = {}
    codecs: set[str] = set()
    for member in reader:
        where = f"{reader.url}: member {member.name}"
        location = locations[member.id]
        if location.facts is not None if member.date is None else member.date in location.dates:
            raise ShardError(f"{where} is there twice. Write each member once.")
        if member.date is None:
            location.facts = _facts(member, where=where)
            continue
        try:
            pages = read_pages(member.data, name=where)
        except SourceError as error:
            raise ShardError(f"{error} A shard's GeoTIFFs have a strip for every band.") from error
        forms.setdefault(form_of(pages, product=product, where=where), member.name)
        codecs.add(codec_of(member.data, pages[0]))
        location.dates[member.date] = _Date(
            offset=member.offset,
            prefixes=prefixes(member.data, pages=pages, name=where),
            page=pages[0],
        )
    if len(forms) != 1:
        found = "; ".join(f"{name} is {form.text}" for form, name in forms.items())
        raise ShardError(
            f"{reader.url} mixes GeoTIFFs: {found}. Keep one product and type in one data set."
            if forms
            else f"{reader.url} holds no GeoTIFF named KEY.tN.tif, KEY a number; it holds "
            f"{', '.join(reader.ignored[:3]) or 'nothing'}."
        )
    whole = {key: location for key, location in locations.items() if location.dates}
    rows = [
        _row(key, location, shard=number, url=reader.url)
        for key, location in sorted(
            whole.items(), key=lambda item: min(date.offset for date in item[1].dates.values())
        )
    ]
    alone = [f"{location_key(key)}.json" for key in locations.keys() - whole.keys()]
    return Survey(
        rows=index_table(rows),
        entry=ShardEntry(
            number=number, name=name, locations=len(rows), bytes=size, sha256=reader.sha256
        ),
        form=next(iter(forms)),
        codecs=frozenset(codecs),
        ignored=(*reader.ignored, *sorted(alone)),
    )


def _facts(member: TarMember, *, where: str) -> dict[str, Any]:
    try:
        facts = json.loads(member.data)
    except ValueError as error:
        raise ShardError(f"{where} is not JSON: {error}. Write the shard again.") from error
    if not isinstance(facts, dict):
        raise ShardError(f"{where} is a {type(facts).__name__}, not an object. Write it again.")
    return facts


def _row(key: int, location: _Location, *, shard: int, url: str) -> IndexRow:
    where = f"{url}: location {location_key(key)}"
    if sorted(location.dates) != list(range(len(location.dates))):
        raise ShardError(
            f"{where} has dates {sorted(location.dates)}; number its members KEY.t0.tif, "
            "KEY.t1.tif, … in order of time."
        )
    dates = [location.dates[number] for number in range(len(location.dates))]
    facts = location.facts or {}
    told = facts.get("dates") or [{}] * len(dates)
    if not isinstance(told, list) or len(told) != len(dates):
        raise ShardError(
            f"{where} has {len(dates)} GeoTIFFs, and its JSON's `dates` are {told!r}. "
            "Write one object for each."
        )
    try:
        acquisition = tuple(str(date.get("acquisition", "")) for date in told)
        time = tuple(_time(date.get("time")) for date in told)
        cloud = tuple(_number(date.get("cloud_percent")) for date in told)
        lon, lat = _number(facts.get("lon")), _number(facts.get("lat"))
    except (AttributeError, TypeError, ValueError) as error:
        raise ShardError(f"{where}: its JSON can't be used: {error}. Correct it.") from error
    if lon is None or lat is None:
        lon, lat = _centre(dates[0].page, where=where)
    found = [date.prefixes for date in dates]
    return IndexRow(
        id=location_key(key),
        shard=shard,
        lon=lon,
        lat=lat,
        acquisition=acquisition,
        time=time,
        cloud_percent=cloud,
        member_offset=tuple(date.offset for date in dates),
        member_length=tuple(each.ends[-1] for each in found),
        member_crc32c=tuple(each.crc32c[-1] for each in found),
        page_end=tuple(end for each in found for end in each.ends[:-1]),
        page_crc32c=tuple(crc32c for each in found for crc32c in each.crc32c[:-1]),
    )


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _number(value: int | float | str | None) -> float | None:
    return None if value is None else float(value)


def _centre(page: Page, *, where: str) -> tuple[float, float]:
    try:
        return centre(page.geo, page.width, page.height)
    except SourceError as error:
        raise ShardError(
            f"{where} has neither lon and lat in a KEY.json nor a georeference that tells them. "
            "Add such a member."
        ) from error
