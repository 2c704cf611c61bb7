"""The stages put together: `StreamLoader`, a DataLoader's look-alike that yields uint8 batches."""

import time
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from ssl4eo_stream import distributed
from ssl4eo_stream.bands import Band
from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.shard.manifest import MANIFEST, Manifest, read_manifest
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.batch import Batch, as_batch, pin
from ssl4eo_stream.stream.catalog import Catalog, as_urls, open_catalog
from ssl4eo_stream.stream.clock import Clock
from ssl4eo_stream.stream.plan import (
    Position,
    Topology,
    num_steps,
)
from ssl4eo_stream.stream.pool import InProcess, Pool, Rendered
from ssl4eo_stream.stream.quarantine import Quarantine
from ssl4eo_stream.stream.select import Selection
from ssl4eo_stream.stream.setup import Reading, Setup, Views
from ssl4eo_stream.stream.state import check_state, place
from ssl4eo_stream.stream.together import agree, on_every_rank
from ssl4eo_stream.stream.work import passes


class StreamLoader:
    """Streams folders of shards, every sample once an epoch, in an order of the seed alone.

    An iterator goes over what is left of the current epoch; when it is exhausted the next begins,
    whose first batches the workers have by then. Leaving an iterator early loses nothing: the next
    one goes on behind the batches handed out.
    In a torch.distributed group all ranks make their loaders and begin their epochs together, and
    where that fails on one, it fails on all, with the reason.

    Args:
        url: Folder of shards (`s3://…`, `gs://…`, `az://…`, `http(s)://…`, `file://…`, or a path),
            or one for each of several products, whose channels are joined by location and date.
        views: What to see of a sample, for example `MoCoViews(size=224)`, or a function that makes
            it of the keyword `bands`.
        batch_size: Samples per batch of this rank.
        seed: Decides order, dates and augmentations.
        workers: Processes that fetch, decode and render; 0 does it in this one.
        rank: This process's rank; torch.distributed's if not given.
        world_size: Ranks; torch.distributed's if not given.
        select: Which part of the data to go over: bands, locations, patches, …
        reading: Prefetch, cache, and what to do about errors.
        pin_memory: Lock the workers' batches in memory, for copies to a GPU that wait for nobody.
        storage_options: obstore's configuration over what the environment says.

    Raises:
        StorageError: A folder cannot be read.
        ShardError: It is not a finished data set, or the products do not match.
        ValueError: An argument does not fit the data, for example fewer samples than a batch.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        views: Views | Callable[..., Views],
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        select: Selection | None = None,
        reading: Reading | None = None,
        pin_memory: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ValueError("rank and world_size are given together, or neither.")
        select, reading, urls = select or Selection(), reading or Reading(), as_urls(url)
        self._together = rank is None
        self._rank = distributed.rank() if rank is None else rank
        world = distributed.world_size() if world_size is None else world_size
        self.seed = seed
        self._topology = Topology(world_size=world, workers=workers, batch_size=batch_size)

        def opened() -> tuple[list[Store], Catalog]:
            self._topology.check(rank=self._rank, seed=seed)
            stores = [reading.store(each, options=storage_options) for each in urls]
            catalog = open_catalog(stores, urls, select)
            if len(catalog) < self._topology.global_batch:
                raise ValueError(
                    f"{' '.join(store.url for store in stores)}: {len(catalog)} samples, fewer "
                    f"than one global batch of {world} ranks × batch_size {batch_size}. "
                    "Use a smaller batch, or fewer ranks."
                )
            return stores, catalog

        self._stores, self._catalog = on_every_rank(opened) if self._together else opened()
        self.views: Views = views if isinstance(views, Views) else views(bands=self.bands)
        self._setup = Setup(
            sources=self._catalog.sources, storage_options=storage_options, views=self.views,
            batch_size=batch_size, sensor_drop=select.sensor_drop, reading=reading,
        )  # fmt: skip
        self._quarantine = Quarantine(
            reading.quarantine, budget=reading.replace_budget, rank=self._rank,
            samples=len(self) * batch_size,
        )  # fmt: skip
        self._shapes = self.views.shapes(self.channels)
        self._position = self._start_of(0)
        self._pool = (
            Pool(self._setup, shapes=self._shapes, workers=workers, pin=pin if pin_memory else None)
            if workers
            else InProcess(self._setup, shapes=self._shapes)
        )
        self._flow: Generator[Rendered] | None = None  # the pool's batches, without end
        self._next: Position | None = None  # where that stands
        weakref.finalize(self, self._pool.close)
        self._clock = Clock()
        self._wait_seconds, self._window_start = 0.0, time.perf_counter()

    @property
    def url(self) -> str:
        """Where the shards lie, without credentials."""
        return " ".join(store.url for store in self._stores)

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """What the folders hold, one per product."""
        return tuple(source.manifest for source in self._catalog.sources)

    @property
    def left_out(self) -> dict[str, int]:
        """How many `locations` and `dates` `on_mismatch="skip"` has left out."""
        return dict(self._catalog.left_out)

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are read, of all products, in the order of the channels."""
        return tuple(band for source in self._catalog.sources for band in source.bands)

    @property
    def channels(self) -> int:
        """Channels of every view: the bands of all products."""
        return len(self.bands)

    @property
    def epoch(self) -> int:
        """Epoch that the next iterator goes over, from 0; setting it goes to that epoch's start."""
        return self._position.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._position = self._start_of(epoch)

    def __len__(self) -> int:
        """Steps of a whole epoch; what does not fill a global batch is left out."""
        return len(self._catalog) // self._topology.global_batch

    def _start_of(self, epoch: int) -> Position:
        return Position.start(epoch, samples=len(self._catalog), topology=self._topology)

    def state_dict(self) -> dict[str, Any]:
        """Return the place behind the batches handed out: JSON-able, the same on every rank."""
        return {**self._place(), **self._position.to_dict()}

    def _place(self) -> dict[str, Any]:
        return place(self._catalog.identity, seed=self.seed)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place that `state_dict` described, on this topology.

        Raises:
            CheckpointError: The state belongs to other data, another seed, or another version.
        """

        def check() -> None:
            check_state(state, ours=self._place(), url=self.url)

        on_every_rank(check) if self._together else check()
        self._position = Position.from_dict(dict(state)).on(self._topology)

    def __iter__(self) -> Iterator[Batch]:
        start = here = self._position
        stop = num_steps(start.intervals, start.topology)
        self._check(start, stop)
        for step in range(start.steps, stop):
            if self._position is not here:
                raise RuntimeError(
                    "The loader has been set to another place, or has another iterator by now. "
                    "Go on with that one, or begin a new one."
                )
            batch = self._batch(here)
            self._position = self._next = here = replace(start, steps=step + 1)
            yield batch
            del batch  # or its slot of the ring would be held while the next one is asked for
        self._position = self._start_of(start.epoch + 1)
        if self._next == here:
            self._next = self._position

    def _batch(self, place: Position) -> Batch:
        """Return the batch at a place, which the workers may have in hand already."""
        if self._next != place:
            self._flow = self._next = None  # takes back what they have in hand
            ahead = passes(place, self._catalog, seed=self.seed, rank=self._rank)
            self._flow, self._next = self._pool.batches(ahead), place
        assert self._flow is not None
        asked = time.perf_counter()
        try:
            rendered = next(self._flow)
        except BaseException:
            self._flow = self._next = None
            raise
        self._wait_seconds += time.perf_counter() - asked
        self._clock.add(rendered.samples.clock)
        self._quarantine.add(rendered.samples.replaced, epoch=place.epoch)
        return as_batch(rendered, shapes=self._shapes)

    def _check(self, position: Position, stop: int) -> None:
        """Make sure that the shards are still those of the start, and ranks of one mind.

        Raises:
            ShardError: They are not; raised on every rank.
            StorageError: A manifest cannot be read; raised on every rank.
        """

        def unchanged() -> None:
            for store, source in zip(self._stores, self._catalog.sources, strict=True):
                if read_manifest(store).hash != source.manifest.hash:
                    raise ShardError(
                        f"{store.url}: {MANIFEST} is not the one that this run began with; the "
                        "shards were built again. Put the old ones back, or start a new run."
                    )

        if self._together:
            on_every_rank(unchanged)
            mine = {"seed": self.seed, "position": position.to_dict(), "steps": stop}
            agree({**self._catalog.identity, **mine}, rank=self._rank)
        else:
            unchanged()

    def stats(self) -> dict[str, float]:
        """Return what happened since the last call.

        Returns:
            `samples_per_second` and `megabytes_per_second` handed out; `wait_share`, the part of
            the time in which the trainer waited for a batch; `bytes_per_sample` read; the counts
            `requests`, `retries`, `replaced`, `cache_hits` and `cache_misses`; `share_idle`, the
            part of the readers' time in which the trainer had batches enough; and `share_STAGE`
            for every stage: its part of their working time.
        """
        now = time.perf_counter()
        stats = self._clock.stats(
            elapsed_seconds=now - self._window_start, wait_seconds=self._wait_seconds
        )
        self._clock, self._wait_seconds, self._window_start = Clock(), 0.0, now
        return stats

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers, to watch their memory; none before the first batch."""
        return self._pool.pids

    def close(self) -> None:
        """End the workers; batches still held stay valid."""
        self._pool.close()
        self._flow = self._next = None

    def __enter__(self) -> "StreamLoader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
