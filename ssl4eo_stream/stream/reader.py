"""Fetch, decode, views, put together: fills the batches of one stream, in any process."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from ssl4eo_stream.errors import ShardError, SourceError, Ssl4eoError
from ssl4eo_stream.stream.cache import Cache
from ssl4eo_stream.stream.clock import Clock
from ssl4eo_stream.stream.decode import Decoder, Planes
from ssl4eo_stream.stream.fetch import Fetch, Fetched, Seen, Shards
from ssl4eo_stream.stream.plan import Generators
from ssl4eo_stream.stream.setup import Setup
from ssl4eo_stream.stream.work import Work


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """A sample that could not be had, and which one stood in for it."""

    id: int
    """Its location id."""
    by: int
    """The location id that stands in its place."""
    reason: str
    """What was wrong."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a filled batch holds beside its pixels."""

    ids: Int64[np.ndarray, " b"]
    """Location ids."""
    dates: Int64[np.ndarray, "b v"]
    """Which of its location's dates each view shows."""
    replaced: tuple[Replaced, ...]
    """Samples that others stand in for."""
    clock: Clock
    """Where the time went."""


class Reader:
    """Fills batches from one stream of work."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        reading = setup.reading
        limit_bytes = int(reading.cache_gigabytes * 1e9)
        self._cache = Cache.open(reading.cache, limit_bytes=limit_bytes) if reading.cache else None
        self._shards = self._open()
        self._decoders = [
            Decoder(source.manifest, channels=source.channels) for source in setup.sources
        ]
        ends = np.cumsum([len(source.channels) for source in setup.sources]).tolist()
        self._channels = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
        self._fetch: Fetch | None = None
        self._ahead: deque[Fetched] = deque()
        self._last_good: Fetched | None = None
        self._generators: dict[int, Generators] = {}  # by epoch
        self._left = 0

    def _open(self) -> tuple[Shards, ...]:
        setup = self._setup
        return tuple(
            Shards(
                store=setup.reading.store(source.url, options=setup.storage_options),
                names={shard.number: shard.name for shard in source.manifest.shards},
                cache=self._cache,
            )
            for source in setup.sources
        )

    def add(self, work: Work) -> None:
        """Append work; what there was before it comes first."""
        generators = Generators(seed=work.seed, epoch=work.epoch)
        # Two epochs may be in work at a time.
        self._generators.pop(work.epoch - 2, None)
        self._generators[work.epoch] = generators
        views, products = self._setup.views, tuple(range(len(self._shards)))
        drop = self._setup.sensor_drop if len(products) > 1 else 0.0

        def choose(location: int, num_dates: int) -> tuple[Seen, ...]:
            rng = generators.of(location, stream=0)
            dates = views.dates(num_dates, rng=rng)
            if not drop:
                return tuple((date, products) for date in dates)
            draws = rng.random((len(dates), 2)).tolist()
            return tuple(
                (date, (int(which * len(products)),) if coin < drop else products)
                for date, (coin, which) in zip(dates, draws, strict=True)
            )

        reading = self._setup.reading
        self._fetch = self._fetch or Fetch(
            self._shards, budget_bytes=reading.prefetch_bytes, connections=reading.connections
        )
        self._fetch.add(work, choose=choose)
        self._left += len(work)

    def fill(self, out: list[UInt8[np.ndarray, "b c _ _"]]) -> Samples:
        """Write the next batch into `out`, one array per view.

        Raises:
            StorageError: A read failed for good.
            ShardError: A member is damaged, or nothing in its block can stand in for it.
        """
        fetch, clock = self._fetch, Clock()
        assert fetch is not None, "add() comes first"
        ids = np.empty(self._setup.batch_size, np.int64)
        dates = np.empty((self._setup.batch_size, len(out)), np.int64)
        replaced = []
        for i in range(self._setup.batch_size):
            sample = self._ahead.popleft() if self._ahead else next(fetch)
            clock.lap("fetch")
            key = sample.id
            try:
                planes = self._decode(sample, clock)
            except Ssl4eoError as error:
                if self._setup.reading.on_error == "raise":
                    raise
                sample, planes = self._stand_in(sample, error, clock)
                replaced.append(Replaced(id=key, by=sample.id, reason=str(error)))
            self._last_good = sample
            self._render(sample, planes, [each[i] for each in out], key=key, clock=clock)
            ids[i] = sample.id
            dates[i] = [sample.first_date + date for date, _ in sample.views]
            clock.samples += 1
        self._left -= clock.samples
        clock.replaced = len(replaced)
        self._count(clock)
        return Samples(ids=ids, dates=dates, replaced=tuple(replaced), clock=clock)

    def _decode(self, sample: Fetched, clock: Clock) -> dict[tuple[int, int], Planes]:
        """Return the planes of every (date, product) that a view shows."""
        if sample.error:
            raise sample.error
        planes: dict[tuple[int, int], Planes] = {}
        for (date, product), member in sample.members.items():
            assert isinstance(member, bytes)
            url = self._shards[product].store.url
            name = f"{url} member {sample.id:07d}.t{sample.first_date + date}.tif"
            try:
                planes[date, product] = self._decoders[product](member, name=name)
            except SourceError as error:
                raise ShardError(f"{error} Its CRC-32C is right: it was written so.") from error
            clock.num_bytes += len(member)
        clock.lap("decode")
        return planes

    def _stand_in(
        self, bad: Fetched, error: Ssl4eoError, clock: Clock
    ) -> tuple[Fetched, dict[tuple[int, int], Planes]]:
        """Return the next good sample of the bad one's block, or the last one before it."""
        for candidate in self._candidates(bad.block):
            try:
                return candidate, self._decode(candidate, clock)
            except Ssl4eoError:
                continue  # it has its own turn to be replaced and told of
        raise ShardError(
            f"No sample of its block can stand in for location {bad.id:07d}. Shards are damaged "
            "beyond single members: run ssl4eo-shard verify, and copy or build them again."
        ) from error

    def _candidates(self, block: tuple[int, int]) -> Iterator[Fetched]:
        """Yield the samples of a block that follow, kept for their own turn, then the last one."""
        yield from [sample for sample in self._ahead if sample.block == block]
        while not self._ahead or self._ahead[-1].block == block:
            following = next(self._fetch, None) if self._fetch else None
            if following is None:
                break
            self._ahead.append(following)
            if following.block == block:
                yield following
        if self._last_good and self._last_good.block == block:
            yield self._last_good

    def _render(
        self,
        sample: Fetched,
        planes: dict[tuple[int, int], Planes],
        out: list[UInt8[np.ndarray, "c _ _"]],
        *,
        key: int,
        clock: Clock,
    ) -> None:
        """Write a sample's views; `key` is the location whose randomness they take."""
        generators = self._generators[sample.block[0]]
        for view, (date, products) in enumerate(sample.views):
            rng = generators.of(key, stream=1 + view)
            clock.lap("other")
            target, shown = out[view], products
            if len(products) < len(self._shards):
                target[:] = 0
                (only,) = products
                target = target[self._channels[only]]
            together = [plane for product in shown for plane in planes[date, product]]
            self._setup.views.render(together, view=view, rng=rng, out=target, lap=clock.lap)

    def _count(self, clock: Clock) -> None:
        for shards in self._shards:
            counted = shards.store.counters.take()
            clock.requests += counted.requests
            clock.retries += counted.retries
        if self._cache:
            blocks = self._cache.counters.take()
            clock.cache_hits += blocks.hits
            clock.cache_misses += blocks.misses

    def close(self) -> None:
        """Drop all work, without waiting for a store that does not answer."""
        if self._fetch is None:
            return
        if self._left:
            for shards in self._shards:
                shards.store.stop()
        self._fetch.close()
        if self._left:
            self._shards = self._open()  # a store that was stopped tries nothing again
        self._fetch, self._left = None, 0
        self._generators.clear()
        self._ahead.clear()
        self._last_good = None
