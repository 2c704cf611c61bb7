"""Fetch, decode, views, put together: fills the batches of one stream, in any process."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.decode import Decoder, Planes
from ssl4eo_stream.stream.fetch import Fetched, Work, fetch
from ssl4eo_stream.stream.plan import Generators


@runtime_checkable
class Views(Protocol):
    """What a method sees of a location; see `ssl4eo_stream.augment.views`."""

    @property
    def num_views(self) -> int:
        """Views per location."""
        ...

    def shapes(self, num_channels: int) -> tuple[tuple[int, int, int], ...]:
        """Return each view's (C, H, W)."""
        ...

    def dates(self, num_dates: int, *, rng: np.random.Generator) -> tuple[int, ...]:
        """Return which of a location's dates each view shows."""
        ...

    def render(
        self,
        planes: Planes,
        *,
        view: int,
        rng: np.random.Generator,
        out: UInt8[np.ndarray, "c h w"],
        lap: Callable[[str], None],
    ) -> None:
        """Write one view of one date into `out`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that a reader must know, small and picklable."""

    url: str
    """Folder of shards, credentials and all: never shown."""
    storage_options: Mapping[str, Any] | None
    """obstore's configuration."""
    manifest: Manifest
    """What the folder holds."""
    views: Views
    """Draws the views."""
    batch_size: int
    """Locations per batch."""
    budget_bytes: int
    """Bytes fetched ahead of need."""
    connections: int
    """Requests at a time."""


@dataclass
class Clock:
    """Seconds by stage, and what went through."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> seconds spent in it."""
    num_bytes: int = 0
    """Bytes of members read."""
    samples: int = 0
    """Locations rendered."""
    _last: float = field(default_factory=time.perf_counter)

    def restart(self) -> None:
        """Begin a lap now."""
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Charge the time since the last lap to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now

    def add(self, other: "Clock") -> None:
        """Add what another clock measured."""
        for stage, seconds in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        self.num_bytes += other.num_bytes
        self.samples += other.samples


class Reader:
    """Fills batches from one stream of work."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._store = Store.open(setup.url, options=setup.storage_options)
        self._decode = Decoder(setup.manifest)
        self._fetched: Iterator[Fetched] = iter(())
        self._generators: Generators | None = None

    def start(self, work: Work) -> None:
        """Begin with new work; what was left of the old is dropped."""
        self.close()
        views, generators = self._setup.views, Generators(seed=work.seed, epoch=work.epoch)

        def dates_of(location: int, num_dates: int) -> tuple[int, ...]:
            return views.dates(num_dates, rng=generators.of(location, stream=0))

        self._generators = generators
        self._fetched = fetch(
            work,
            store=self._store,
            product=self._setup.manifest.product,
            dates_of=dates_of,
            budget_bytes=self._setup.budget_bytes,
            connections=self._setup.connections,
        )

    def fill(
        self, out: list[UInt8[np.ndarray, "b c h w"]]
    ) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, "b v"], Clock]:
        """Write the next batch into `out`, one array per view.

        Returns:
            The locations' ids, the date that each view shows, and where the time went.

        Raises:
            StorageError: A read failed for good.
            ShardError: A member is damaged.
        """
        assert self._generators is not None, "start() comes first"
        clock = Clock()
        ids = np.empty(self._setup.batch_size, np.int64)
        dates = np.empty((self._setup.batch_size, len(out)), np.int64)
        for i in range(self._setup.batch_size):
            sample = next(self._fetched)
            clock.lap("fetch")
            planes: dict[int, Planes] = {}
            for date, member in sample.members.items():
                name = f"{self._store.url} member {sample.id:07d}.t{date}.tif"
                planes[date] = self._decode(member, name=name)
                clock.num_bytes += len(member)
            clock.lap("decode")
            for view, date in enumerate(sample.dates):
                rng = self._generators.of(sample.id, stream=1 + view)
                clock.lap("other")
                self._setup.views.render(
                    planes[date], view=view, rng=rng, out=out[view][i], lap=clock.lap
                )
            ids[i], dates[i] = sample.id, sample.dates
            clock.samples += 1
        return ids, dates, clock

    def close(self) -> None:
        """Stop reading ahead."""
        close = getattr(self._fetched, "close", None)
        if close:
            close()
        self._fetched = iter(())
