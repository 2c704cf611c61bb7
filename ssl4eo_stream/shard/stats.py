"""Shards -> what their pixels are like: mean, standard deviation, range and histogram of each band.

Every pixel counts once, at its band's native size. Parts are merged by the formula of Chan, Golub
and LeVeque (1979), so shards can be read in any order, by any number of processes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import google_crc32c
import numpy as np
from jaxtyping import Int64, Num

from ssl4eo_stream.bands import PRODUCTS, Band
from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.cluster import Cluster, executor_of
from ssl4eo_stream.shard.manifest import Index, Manifest, ShardEntry, read_data_set
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.store import Store
from ssl4eo_stream.strips import decode_sample, read_pages

RANGE_BYTES = 16 << 20
"""Most that one request asks for, unless a single GeoTIFF is larger."""


@dataclass(frozen=True, kw_only=True)
class BandStats:
    """What is known of some pixels of one band, in its unit: DN (S2) or dB (S1)."""

    count: int
    """Pixels."""
    mean: float
    """Their mean; NaN of none."""
    squares: float
    """Sum of squared distances from the mean."""
    low: float
    """The smallest; infinity of none."""
    high: float
    """The largest; minus infinity of none."""
    histogram: Int64[np.ndarray, "256"]
    """How many pixels each stored byte stands for: bin k is k * scale + offset, half a step to
    either side; the first and last hold all that lies beyond."""

    @classmethod
    def of(cls, stored: Num[np.ndarray, "h w"], *, band: Band, scale: float, offset: float
           ) -> "BandStats":  # fmt: skip
        """Count pixels as stored: value = stored * scale + offset."""
        if stored.dtype == np.uint8:
            levels = np.bincount(stored.ravel(), minlength=256).astype(np.int64)
            numbers = np.flatnonzero(levels)
            total = stored.size
            first = float(levels @ np.arange(256)) / total  # whole numbers below 2^53: exact
            spread = float(levels[numbers] @ (numbers - first) ** 2)
            low, high, histogram = int(numbers[0]), int(numbers[-1]), levels
        else:
            exact = stored.astype(np.float64)
            first = float(exact.mean())
            spread = float(((exact - first) ** 2).sum())
            low, high = float(exact.min()), float(exact.max())
            histogram = np.bincount(to_bytes(stored, band=band).ravel(), minlength=256).astype(
                np.int64
            )
        return cls(
            count=stored.size,
            mean=first * scale + offset,
            squares=spread * scale**2,
            low=low * scale + offset,
            high=high * scale + offset,
            histogram=histogram,
        )

    @classmethod
    def nothing(cls) -> "BandStats":
        """Return the stats of no pixel."""
        return cls(count=0, mean=float("nan"), squares=0.0, low=float("inf"), high=float("-inf"),
                   histogram=np.zeros(256, np.int64))  # fmt: skip

    @property
    def std(self) -> float:
        """Standard deviation of the pixels (their number below the line, not one less)."""
        return (self.squares / self.count) ** 0.5 if self.count else float("nan")

    def __add__(self, other: "BandStats") -> "BandStats":
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        return BandStats(
            count=count,
            mean=self.mean + apart * other.count / count,
            squares=self.squares + other.squares + apart**2 * self.count * other.count / count,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
            histogram=self.histogram + other.histogram,
        )


@dataclass(frozen=True, kw_only=True)
class _Members:
    """The GeoTIFFs of one shard, in its order."""

    entry: ShardEntry
    names: list[str]
    starts: list[int]
    ends: list[int]
    crc32c: list[int]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield [first, last) members that one request brings."""
        first = 0
        for i in range(1, len(self.names) + 1):
            if i == len(self.names) or self.ends[i] - self.starts[first] > RANGE_BYTES:
                yield first, i
                first = i


def stats(
    url: str,
    *,
    workers: int | Cluster = 1,
    on_start: Callable[[int], None] = lambda _: None,
    on_shard: Callable[[int], None] = lambda _: None,
) -> tuple[Manifest, tuple[BandStats, ...]]:
    """Read all pixels of a data set once.

    Args:
        url: Its folder: path or URL.
        workers: Processes, each reading a shard at a time; 0 and 1 work in this one; or a cluster.
        on_start: Called once with the number of patches.
        on_shard: Called after each shard with its number of patches.

    Returns:
        The manifest, and the stats of each band in its order.

    Raises:
        StorageError: A shard is not there, or can't be read.
        ShardError: Manifest, index and shards do not belong together.
        SourceError: A GeoTIFF can't be decoded.
    """
    store = Store.open(url)
    manifest, index = read_data_set(store)
    if not len(index.offsets):
        raise ShardError(f"{store.url} holds no patches: there is nothing to count.")
    on_start(len(index.offsets))
    shards = [_members(index, entry) for entry in manifest.shards]
    total = (BandStats.nothing(),) * len(manifest.bands)
    for done in _map(partial(_of_shard, url, manifest), shards, workers=workers):
        total = tuple(a + b for a, b in zip(total, done, strict=True))
        on_shard(done[0].count // PRODUCTS[manifest.product].bands[0].pixels ** 2)
    return manifest, total


def bins(manifest: Manifest) -> list[tuple[float, float]]:
    """Return (scale, offset) of each band's histogram: bin k is values about k * scale + offset."""
    if manifest.dtype == "uint8":
        return list(zip(manifest.scale, manifest.offset, strict=True))
    return [(band.scale, band.offset) for band in PRODUCTS[manifest.product].bands]


def _map(
    work: Callable[[_Members], tuple[BandStats, ...]],
    shards: list[_Members],
    *,
    workers: int | Cluster,
) -> Iterator[tuple[BandStats, ...]]:
    """In order, so that sums come out the same with any number of processes."""
    with executor_of(workers) as (executor, _):
        yield from executor.map(work, shards) if executor else map(work, shards)


def _members(index: Index, entry: ShardEntry) -> _Members:
    dates = [
        (int(index.offsets[j]), f"{location_key(int(index.ids[i]))}.t{date}.tif", j)
        for i in np.flatnonzero(index.shards == entry.number)
        for date, j in enumerate(range(index.first_date[i], index.first_date[i + 1]))
    ]
    dates.sort()
    return _Members(
        entry=entry,
        names=[name for _, name, _ in dates],
        starts=[start for start, _, _ in dates],
        ends=[start + int(index.lengths[j]) for start, _, j in dates],
        crc32c=[int(index.crc32c[j]) for _, _, j in dates],
    )


def _of_shard(url: str, manifest: Manifest, members: _Members) -> tuple[BandStats, ...]:
    store = Store.open(url)
    total = (BandStats.nothing(),) * len(manifest.bands)
    for first, last in members.ranges():
        start = members.starts[first]
        data = store.read_range(members.entry.name, start=start, end=members.ends[last - 1])
        for i in range(first, last):
            member = data[members.starts[i] - start : members.ends[i] - start]
            name = f"{store.url}/{members.entry.name}, member {members.names[i]}"
            patch = decode_patch(member, manifest, crc32c=members.crc32c[i], name=name)
            total = tuple(a + b for a, b in zip(total, patch_stats(patch, manifest), strict=True))
    return total


def decode_patch(
    data: memoryview, manifest: Manifest, *, crc32c: int, name: str
) -> dict[str, Num[np.ndarray, "_ _"]]:
    """Check a member of a shard, and return its bands by name, as stored, at native size.

    Args:
        data: The GeoTIFF.
        manifest: The data set's.
        crc32c: What its index has for it.
        name: What to call it in errors.

    Raises:
        ShardError: It is not what the index says.
        SourceError: It can't be decoded.
    """
    if google_crc32c.value(bytes(data)) != crc32c:
        raise ShardError(
            f"{name}: crc32c is not the index's. ssl4eo-shard verify says what else is wrong there."
        )
    pages = read_pages(data, name=name, georeference=False)
    if [page.samples for page in pages] != [len(bands) for bands in manifest.pages]:
        raise SourceError(f"{name} does not have the manifest's pages. Build the shard again.")
    return {
        band: decode_sample(data, page, sample, name=name)
        for page, bands in zip(pages, manifest.pages, strict=True)
        for sample, band in enumerate(bands)
    }


def patch_stats(
    patch: dict[str, Num[np.ndarray, "_ _"]], manifest: Manifest
) -> tuple[BandStats, ...]:
    """Return the stats of each band of a decoded patch, in the manifest's order."""
    bands = PRODUCTS[manifest.product].bands
    return tuple(
        BandStats.of(patch[band.name], band=band, scale=scale, offset=offset)
        for band, scale, offset in zip(bands, manifest.scale, manifest.offset, strict=True)
    )
