"""Whole shards, one after another: fills the batches of one worker where there is no index."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.shard.form import Form, form_of
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.clock import Clock
from ssl4eo_stream.stream.decode import Decoder
from ssl4eo_stream.stream.plan import Generators, raw_generator
from ssl4eo_stream.stream.reader import Samples
from ssl4eo_stream.stream.setup import Views
from ssl4eo_stream.strips import read_pages
from ssl4eo_stream.tars import TarMember, TarReader

LAP_BITS = 20
"""A lap counts as an epoch of its own, far beyond those that anybody trains."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A shard when its time has come."""

    lap: int
    """How often the worker has been through its shards before, this epoch."""
    shard: int
    """Position among all shards."""


def turns(
    num_shards: int, *, consumer: int, consumers: int, seed: int, epoch: int, forever: bool
) -> Iterator[Turn]:
    """Yield the shards of one consumer in the order that it reads them.

    All shards are permuted and dealt out, each to one consumer. One that goes on for ever takes its
    own shards again, in another order.

    Args:
        num_shards: Shards of the data set.
        consumer: Which consumer, from 0.
        consumers: Ranks × workers.
        seed: The run's seed.
        epoch: Epoch, from 0.
        forever: Whether to begin again at the end.
    """
    dealt = _permuted(np.arange(num_shards), seed, epoch, 0)
    mine = dealt[consumer::consumers]
    yield from (Turn(lap=0, shard=shard) for shard in mine.tolist())
    lap = 1
    while forever and len(mine):
        again = _permuted(mine, seed, epoch, lap, consumer)
        yield from (Turn(lap=lap, shard=shard) for shard in again.tolist())
        lap += 1


def _permuted(values: np.ndarray, *key: int) -> np.ndarray:
    """Return values in an order that depends on the key alone."""
    return values[np.argsort(raw_generator(*key).random_raw(len(values)), kind="stable")]


@dataclass(frozen=True, kw_only=True)
class WholeSetup:
    """All that a reader must know, small and picklable."""

    url: str
    """Folder of the shards, credentials and all."""
    storage_options: Mapping[str, Any] | None
    """obstore's configuration."""
    sizes: dict[str, int]
    """File name of each shard -> its bytes."""
    form: Form
    """What the GeoTIFFs are like."""
    views: Views
    """Draws the views."""
    batch_size: int
    """Locations per batch."""
    seed: int
    """The run's seed."""
    rank: int
    """This process's rank."""
    world_size: int
    """Ranks."""
    streams: int
    """Readers of each rank."""
    forever: bool
    """Whether a reader whose shards are used up begins them again."""


@dataclass(frozen=True, kw_only=True)
class _Location:
    """One location, still encoded."""

    id: int
    """Location id."""
    lap: int
    """The lap that it is read in."""
    shard: str
    """Where its shard lies."""
    dates: tuple[TarMember, ...]
    """Its GeoTIFFs."""


class WholeShardReader:
    """Fills the batches of one worker of one rank, in memory for two shards."""

    def __init__(self, setup: WholeSetup, *, worker: int) -> None:
        self._setup = setup
        self._consumer = setup.rank * setup.streams + worker
        self._decoder = Decoder(setup.form.manifest())
        self._epoch = 0
        self._store: Store | None = None
        self._locations: Iterator[_Location] = iter(())

    def start(self, epoch: int) -> None:
        """Begin an epoch; what was left of the last one is dropped."""
        self.close()
        self._epoch = epoch
        self._store = Store.open(self._setup.url, options=self._setup.storage_options)
        self._locations = self._read(self._store)

    def fill(self, out: list[UInt8[np.ndarray, "b c _ _"]]) -> Samples | None:
        """Write the next batch into `out`, one array per view; None if what is left is less.

        Raises:
            StorageError: A read failed for good.
            ShardError: A shard is damaged, or holds other GeoTIFFs than the first one.
        """
        size, clock = self._setup.batch_size, Clock()
        ids = np.empty(size, np.int64)
        dates = np.empty((size, len(out)), np.int64)
        for i in range(size):
            location = next(self._locations, None)
            if location is None:
                return None
            clock.lap("fetch")
            ids[i] = location.id
            dates[i] = self._render(location, [each[i] for each in out], clock=clock)
            clock.samples += 1
        return Samples(ids=ids, dates=dates, replaced=(), clock=self._counted(clock))

    def _render(
        self, location: _Location, out: list[UInt8[np.ndarray, "c _ _"]], *, clock: Clock
    ) -> tuple[int, ...]:
        """Write a location's views and return which dates they show."""
        epoch = self._epoch + (location.lap << LAP_BITS)
        generators = Generators(seed=self._setup.seed, epoch=epoch)
        views = self._setup.views
        dates = views.dates(len(location.dates), rng=generators.of(location.id, stream=0))
        planes = {}
        for date in sorted(set(dates)):
            member = location.dates[date]
            try:
                planes[date] = self._decoder(
                    member.data, name=f"{location.shard}: member {member.name}"
                )
            except (SourceError, IndexError) as error:
                raise ShardError(
                    f"Location {location.id:07d} can't be shown: {error} "
                    "ssl4eo-shard index reads all shards and says what is wrong with which."
                ) from error
        clock.lap("decode")
        for view, date in enumerate(dates):
            rng = generators.of(location.id, stream=1 + view)
            clock.lap("other")
            views.render(planes[date], view=view, rng=rng, out=out[view], lap=clock.lap)
        return dates

    def _counted(self, clock: Clock) -> Clock:
        assert self._store is not None, "start() comes first"
        counted = self._store.counters.take()
        clock.requests, clock.retries = counted.requests, counted.retries
        clock.num_bytes = counted.bytes
        return clock

    def _read(self, store: Store) -> Iterator[_Location]:
        """Yield the epoch's locations; the next shard is read while one is rendered."""
        setup = self._setup
        order = turns(
            len(setup.sizes),
            consumer=self._consumer,
            consumers=setup.world_size * setup.streams,
            seed=setup.seed,
            epoch=self._epoch,
            forever=setup.forever,
        )
        pool = ThreadPoolExecutor(1, thread_name_prefix="shard")
        try:
            coming = [pool.submit(self._shard, store, turn) for turn in _first(order)]
            while coming:
                locations = coming.pop().result()
                coming += [pool.submit(self._shard, store, turn) for turn in _first(order)]
                while locations:
                    yield locations.pop()
        finally:
            store.stop()
            pool.shutdown(wait=False, cancel_futures=True)

    def _shard(self, store: Store, turn: Turn) -> list[_Location]:
        """Return a shard's locations, the first one last."""
        name = list(self._setup.sizes)[turn.shard]
        reader = TarReader(store, name, size=self._setup.sizes[name])
        found: dict[int, dict[int, TarMember]] = {}
        for member in reader:
            if member.date is None:
                continue
            if not found and (other := form_in(member, url=reader.url)) != self._setup.form:
                raise ShardError(
                    f"{reader.url} holds {other.text}, other shards {self._setup.form.text}. "
                    "Stream each product and type by itself."
                )
            found.setdefault(member.id, {})[member.date] = member
        if not found:
            raise ShardError(f"{reader.url} holds no GeoTIFF named KEY.tN.tif. Leave it out.")
        ids = _permuted(np.array(sorted(found)), self._setup.seed, self._epoch, turn.lap,
                        turn.shard, 1)  # fmt: skip
        return [
            _Location(
                id=key,
                lap=turn.lap,
                shard=reader.url,
                dates=tuple(member for _, member in sorted(found[key].items())),
            )
            for key in ids.tolist()
        ]

    def close(self) -> None:
        """Stop reading ahead."""
        close = getattr(self._locations, "close", None)
        if close:
            close()
        self._locations = iter(())


def _first(order: Iterator[Turn]) -> Iterator[Turn]:
    """Yield one turn, if there is one left."""
    turn = next(order, None)
    if turn is not None:
        yield turn


def form_in(member: TarMember, *, url: str) -> Form:
    """Return what a GeoTIFF of a shard is like.

    Raises:
        ShardError: It is not one that a shard holds.
    """
    where = f"{url}: member {member.name}"
    try:
        return form_of(read_pages(member.data, name=where), product=None, where=where)
    except SourceError as error:
        raise ShardError(f"{error} A shard's GeoTIFFs have a strip for every band.") from error
