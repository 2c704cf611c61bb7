"""Shards of some products -> what a page about them shows: facts, pixels of a sample, pictures."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Int64

from ssl4eo_stream.bands import PRODUCTS, Product
from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.manifest import INDEX, Index, Manifest, read_files
from ssl4eo_stream.shard.places import Places
from ssl4eo_stream.shard.stats import BandStats, decode_patch, patch_stats
from ssl4eo_stream.shard.thumbnails import Patch, thumbnails
from ssl4eo_stream.store import Store

READERS = 16
"""Patches read at a time: most of a remote read is waiting."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """The shards of one product, and what their index says."""

    store: Store
    """Where they lie."""
    manifest: Manifest
    """What they are."""
    index: Index
    """Where everything lies in them."""
    places: Places
    """Where on Earth, and when."""

    @classmethod
    def open(cls, url: str) -> "Holding":
        """Read manifest and index of a folder of shards.

        Raises:
            StorageError: They can't be read.
            ShardError: They are not what they should be, or there is nothing in them.
        """
        store = Store.open(url)
        manifest, data = read_files(store)
        index = Index.from_parquet(data, url=f"{store.url}/{INDEX}")
        if not len(index.offsets):
            raise ShardError(f"{store.url} holds no patches: there is nothing to show.")
        return cls(store=store, manifest=manifest, index=index, places=Places.from_parquet(data))

    @property
    def product(self) -> Product:
        """Facts about the product."""
        return PRODUCTS[self.manifest.product]

    @property
    def num_bytes(self) -> int:
        """Size of all shards."""
        return sum(entry.bytes for entry in self.manifest.shards)

    @property
    def raw_bytes(self) -> int:
        """Size of the same pixels as the product's own numbers, uncompressed, native sizes."""
        pixels = sum(band.pixels**2 for band in self.product.bands)
        return self.manifest.patches * pixels * np.dtype(self.product.dtype).itemsize

    def row(self, number: int) -> int | None:
        """Return which row of the index a location is; None if it isn't there."""
        found = np.flatnonzero(self.index.ids == number)
        return int(found[0]) if found.size else None

    def dates(self, row: int) -> range:
        """Return a location's dates, counted over the whole index."""
        return range(int(self.index.first_date[row]), int(self.index.first_date[row + 1]))

    def read(self, date: int) -> Patch:
        """Return the bands of a date, counted over the whole index: by name, as stored.

        Raises:
            StorageError: It can't be read.
            ShardError: It is not what the index says.
            SourceError: It can't be decoded.
        """
        index = self.index
        row = int(np.searchsorted(index.first_date, date, side="right")) - 1
        number = int(index.shards[row])
        shard = next(entry.name for entry in self.manifest.shards if entry.number == number)
        start = int(index.offsets[date])
        data = self.store.read_range(shard, start=start, end=start + int(index.lengths[date]))
        member = f"{location_key(int(index.ids[row]))}.t{date - int(index.first_date[row])}.tif"
        return decode_patch(
            data,
            self.manifest,
            crc32c=int(index.crc32c[date]),
            name=f"{self.store.url}/{shard}, member {member}",
        )


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """One date of one location of one product, as people see it."""

    picture: bytes
    """WebP file."""
    time: np.datetime64
    """Sensing time, UTC; NaT if unknown."""
    cloud_percent: float
    """Cloud cover of the scene in percent; NaN if unknown."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """A location that is shown."""

    id: int
    """Its id."""
    lon: float
    """Longitude, degrees."""
    lat: float
    """Latitude, degrees."""
    dates: tuple[tuple[Thumbnail, ...], ...]
    """Its dates in each product, in order of time; none where the product lacks the location."""


@dataclass(frozen=True, kw_only=True)
class Overview:
    """What there is to show of some products."""

    holdings: tuple[Holding, ...]
    """The products, in the order asked for."""
    bands: tuple[tuple[BandStats, ...], ...]
    """What the sampled pixels of each product's bands are like."""
    sampled: tuple[int, ...]
    """How many patches of each product those are of."""
    sites: tuple[Site, ...]
    """The locations shown."""


def open_all(urls: Sequence[str]) -> tuple[Holding, ...]:
    """Open folders of shards, each of another product.

    Raises:
        StorageError: One can't be read.
        ShardError: One is no data set, or a product is there twice.
    """
    holdings = tuple(Holding.open(url) for url in urls)
    for i, holding in enumerate(holdings):
        for other in holdings[:i]:
            if holding.manifest.product == other.manifest.product:
                raise ShardError(
                    f"{other.store.url} and {holding.store.url} both hold "
                    f"{holding.manifest.product}. Give every product once."
                )
    return holdings


def gather(
    holdings: tuple[Holding, ...],
    *,
    patches: int,
    locations: int,
    ids: Sequence[int] = (),
    on_start: Callable[[int], None] = lambda _: None,
    on_patch: Callable[[int], None] = lambda _: None,
) -> Overview:
    """Read a sample of each product's patches, and the locations to be shown.

    Args:
        holdings: The products.
        patches: How many patches of each the statistics are to be of.
        locations: How many locations are shown, spread evenly over those that all products have.
        ids: Show these locations instead.
        on_start: Called once with the number of patches to read.
        on_patch: Called with 1 after each.

    Raises:
        StorageError: A patch can't be read.
        ShardError: It is not what its index says; or no product has one of `ids`.
        SourceError: It can't be decoded.
    """
    chosen = _choose(holdings, locations=locations, ids=ids)
    samples = [sample(len(holding.index.offsets), patches) for holding in holdings]
    rows = [(number, [holding.row(number) for holding in holdings]) for number in chosen]
    on_start(
        sum(map(len, samples))
        + sum(
            len(holding.dates(row))
            for _, each in rows
            for holding, row in zip(holdings, each, strict=True)
            if row is not None
        )
    )
    with ThreadPoolExecutor(READERS) as pool:
        bands = []
        for holding, dates in zip(holdings, samples, strict=True):
            total = (BandStats.nothing(),) * len(holding.manifest.bands)
            for done in pool.map(partial(_stats, holding), dates.tolist()):
                total = tuple(a + b for a, b in zip(total, done, strict=True))
                on_patch(1)
            bands.append(total)
        sites = tuple(
            _site(number, holdings, each, pool=pool, on_patch=on_patch) for number, each in rows
        )
    return Overview(
        holdings=holdings, bands=tuple(bands), sampled=tuple(map(len, samples)), sites=sites
    )


def sample(count: int, wanted: int) -> Int64[np.ndarray, " w"]:
    """Return which of `count` patches to read: one, drawn, of each of `wanted` equal stretches.

    So they are spread evenly over the shards, favour no date, and are the same every time; all of
    them if `wanted` is `count` or more.
    """
    edges = np.linspace(0, count, min(wanted, count) + 1).astype(np.int64)
    return np.random.default_rng(0).integers(edges[:-1], edges[1:])


def _choose(holdings: tuple[Holding, ...], *, locations: int, ids: Sequence[int]) -> list[int]:
    if ids:
        for number in ids:
            if all(holding.row(number) is None for holding in holdings):
                raise ShardError(
                    f"--ids {location_key(number)} is in none of "
                    f"{', '.join(holding.store.url for holding in holdings)}."
                )
        return list(ids)
    candidates = holdings[0].index.ids
    for holding in holdings[1:]:
        candidates = candidates[np.isin(candidates, holding.index.ids)]
    if not candidates.size:
        candidates = holdings[0].index.ids
    wanted = min(locations, candidates.size)
    places = ((np.arange(wanted) + 0.5) * candidates.size / max(wanted, 1)).astype(np.int64)
    return candidates[places].tolist()


def _stats(holding: Holding, date: int) -> tuple[BandStats, ...]:
    return patch_stats(holding.read(date), holding.manifest)


def _site(
    number: int,
    holdings: tuple[Holding, ...],
    rows: Sequence[int | None],
    *,
    pool: ThreadPoolExecutor,
    on_patch: Callable[[int], None],
) -> Site:
    """Read and draw a location's dates in all products."""
    drawn: list[tuple[Thumbnail, ...]] = []
    places: list[tuple[float, float]] = []
    for holding, row in zip(holdings, rows, strict=True):
        if row is None:
            drawn.append(())
            continue
        dates = holding.dates(row)
        pictures = thumbnails(list(pool.map(holding.read, dates)), holding.manifest)
        on_patch(len(dates))
        facts = holding.places
        places.append((float(facts.lon[row]), float(facts.lat[row])))
        drawn.append(
            tuple(
                Thumbnail(
                    picture=picture,
                    time=facts.times[date],
                    cloud_percent=float(facts.cloud_percent[date]),
                )
                for picture, date in zip(pictures, dates, strict=True)
            )
        )
    (lon, lat), *_ = places  # there is one: `_choose` takes no other
    return Site(id=number, lon=lon, lat=lat, dates=tuple(drawn))
