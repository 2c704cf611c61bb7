"""Shards without an index, whoever made them: `WholeShardLoader` streams them all the same.

An index makes a stream exact, resumable and sparing, and `ssl4eo-shard index` makes one. Without
it nothing is known of a shard before it is read, so shards are read whole, in the manner of
webdataset, and what a rank gets of an epoch depends on what lies in its shards.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, NoReturn, TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ssl4eo_stream import distributed
from ssl4eo_stream.errors import CheckpointError, ShardError
from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.form import Form
from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.stream.batch import Batch
from ssl4eo_stream.stream.clock import Clock
from ssl4eo_stream.stream.reader import Samples
from ssl4eo_stream.stream.setup import Views
from ssl4eo_stream.stream.together import agree, on_every_rank
from ssl4eo_stream.stream.whole import WholeSetup, WholeShardReader, form_in
from ssl4eo_stream.tars import TarReader, Tars, find_tars

BATCHES_AHEAD = 2
"""Batches that every worker has in hand or in work."""
T = TypeVar("T")
logger = logging.getLogger(__name__)


class WholeShardLoader:
    """Streams tars of GeoTIFFs that have no index: whole shards, permuted, split over all workers.

    An epoch's shards are permuted by (seed, epoch) and dealt to ranks × workers; each worker reads
    one at a time, and the next one ahead, shows its locations in an order of their own, and never
    mixes two shards. Each location's views are those that `StreamLoader` makes of it in that epoch.
    Without `steps_per_epoch`, which only a single rank may leave out, an epoch shows every location
    once, less than a batch per worker left out. With it every rank takes so many steps, and a
    worker whose shards are used up begins them again, in another order and with other views.

    It can't resume within an epoch, nothing but the tar's own structure is checked, and every byte
    is read, dates that no view shows included: for long runs make an index. Workers are started
    afresh and import the main module: a script that has some needs `if __name__ == "__main__":`.

    Args:
        url: A folder (`s3://…`, `gs://…`, `az://…`, or a path), or tars by a pattern in braces:
            `https://host/s2c-{000000..000489}.tar`.
        views: What to see of a location, for example `MoCoViews(size=224)`.
        batch_size: Locations per batch of this rank.
        seed: Decides order, dates and augmentations.
        workers: Processes that read, decode and render; 0 does it in this one. Each holds the
            GeoTIFFs of at most two shards.
        steps_per_epoch: Batches of an epoch on every rank.
        rank: This process's rank; torch.distributed's if not given.
        world_size: Ranks; torch.distributed's if not given.
        storage_options: obstore's configuration over what the environment says.

    Attributes:
        epoch: Epoch that the next iterator goes over, from 0.

    Raises:
        StorageError: The shards cannot be found or read.
        ShardError: They hold no GeoTIFFs of a product.
        ValueError: An argument is out of its range, or there are fewer shards than workers.
    """

    def __init__(
        self,
        url: str,
        *,
        views: Views,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        steps_per_epoch: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ValueError("rank and world_size are given together, or neither.")
        together = rank is None
        rank = distributed.rank() if rank is None else rank
        world = distributed.world_size() if world_size is None else world_size
        steps = 1 if steps_per_epoch is None else steps_per_epoch
        for name, value, least in (
            ("batch_size", batch_size, 1), ("workers", workers, 0), ("steps_per_epoch", steps, 1)
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}.")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not within a world of {world}.")
        if world > 1 and steps_per_epoch is None:
            raise ValueError(
                f"{world} ranks need steps_per_epoch: without an index nobody knows how much lies "
                "in each one's shards, and ranks of unequal steps would wait for ever."
            )

        def opened() -> tuple[Tars, Form]:
            tars = find_tars(url, options=storage_options)
            consumers = world * max(1, workers)
            if len(tars.sizes) < consumers:
                raise ValueError(
                    f"{tars.store.url}: {len(tars.sizes)} shards are fewer than {world} ranks × "
                    f"{max(1, workers)} workers, and each worker reads whole shards. Use fewer "
                    "workers, or make an index with ssl4eo-shard index for StreamLoader."
                )
            return tars, _form(tars)

        tars, self._form = on_every_rank(opened) if together else opened()
        self.seed, self.url, self.epoch = seed, tars.store.url, 0
        self._steps, self._rank, self._together = steps_per_epoch, rank, together
        self._setup = WholeSetup(
            url=tars.url, storage_options=storage_options, sizes=tars.sizes, form=self._form,
            views=views, batch_size=batch_size, seed=seed, rank=rank, world_size=world,
            streams=max(1, workers), forever=steps_per_epoch is not None,
        )  # fmt: skip
        self._batches = _Batches(self._setup, steps=steps_per_epoch)
        context = {"multiprocessing_context": "spawn", "prefetch_factor": BATCHES_AHEAD}
        self._loader = DataLoader(
            self._batches,
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_one_thread,
            persistent_workers=workers > 0,
            **(context if workers else {}),
        )
        self._clock = Clock()
        self._wait_seconds, self._window_start = 0.0, time.perf_counter()
        if rank == 0:
            logger.warning(
                "%s has no index: shards are read whole, and a run cannot resume within an epoch. "
                "ssl4eo-shard index makes one for StreamLoader.", self.url,
            )  # fmt: skip

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """What is known without an index: product, bands and types, but no shards."""
        return (self._form.manifest(),)

    @property
    def channels(self) -> int:
        """Channels of every view: the bands of the product."""
        return len(self.manifests[0].bands)

    def __len__(self) -> int:
        """Steps of an epoch.

        Raises:
            TypeError: `steps_per_epoch` was not given; without an index nobody knows.
        """
        if self._steps is None:
            raise TypeError(f"{self.url} has no index and no steps_per_epoch: no length is known.")
        return self._steps

    def state_dict(self) -> NoReturn:
        """Refuse: there is no place to go back to.

        Raises:
            CheckpointError: Always.
        """
        raise CheckpointError(
            f"{self.url} has no index, so there is no place in it to save or resume at. Make one "
            "with ssl4eo-shard index, and use StreamLoader."
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> NoReturn:
        """Refuse; see `state_dict`."""
        del state
        self.state_dict()

    def __iter__(self) -> Iterator[Batch]:
        """Go over an epoch from its start; leaving early gives up the rest of it."""
        if self._together:
            sizes = hashlib.sha256(json.dumps(self._setup.sizes).encode()).hexdigest()
            mine = {"shards": sizes, "seed": self.seed, "steps": self._steps, "epoch": self.epoch}
            agree(mine, rank=self._rank)
        self._batches.epoch.value = self.epoch
        self.epoch += 1
        batches = iter(self._loader)
        step = 0
        while True:
            asked = time.perf_counter()
            made: _Made | None = next(batches, None)
            self._wait_seconds += time.perf_counter() - asked
            if made is None:
                break
            self._clock.add(made.samples.clock)
            step += 1
            yield Batch(
                views=made.views,
                keys=[location_key(each) for each in made.samples.ids.tolist()],
                dates=torch.from_numpy(made.samples.dates),
            )
        if not step:
            raise ShardError(
                f"{self.url}: no worker's shards hold a whole batch of {self._setup.batch_size}. "
                "Use a smaller batch, or fewer workers."
            )

    def stats(self) -> dict[str, float]:
        """Return what happened since the last call; see `StreamLoader.stats`."""
        now = time.perf_counter()
        stats = self._clock.stats(
            elapsed_seconds=now - self._window_start, wait_seconds=self._wait_seconds
        )
        self._clock, self._wait_seconds, self._window_start = Clock(), 0.0, now
        return stats


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A batch on its way from a worker; its tensors travel in shared memory."""

    views: tuple[Tensor, ...]
    """uint8 (B, C, H, W) per view."""
    samples: Samples
    """What they show."""


class _Batches(IterableDataset[_Made]):
    """The batches of one worker, for torch's DataLoader."""

    def __init__(self, setup: WholeSetup, *, steps: int | None) -> None:
        self.epoch = get_context("spawn").Value("q", 0)
        """Told by shared memory, as workers outlive epochs."""
        self._setup, self._steps = setup, steps

    def __iter__(self) -> Iterator[_Made]:
        info = get_worker_info()
        worker = info.id if info else 0
        reader = WholeShardReader(self._setup, worker=worker)
        channels = len(self._setup.form.manifest().bands)
        shapes = self._setup.views.shapes(channels)
        made = worker  # the steps of one rank are taken in turn by its workers
        reader.start(int(self.epoch.value))
        try:
            while self._steps is None or made < self._steps:
                views = tuple(
                    torch.empty(self._setup.batch_size, *shape, dtype=torch.uint8)
                    for shape in shapes
                )
                samples = reader.fill([view.numpy() for view in views])
                if samples is None:
                    return
                yield _Made(views=views, samples=samples)
                made += self._setup.streams
        finally:
            reader.close()


def _form(tars: Tars) -> Form:
    """Return what the first GeoTIFF of the first shard is like, without reading on."""
    name, size = next(iter(tars.sizes.items()))
    reader = TarReader(tars.store, name, size=size)
    for member in reader:
        if member.date is not None:
            return form_in(member, url=reader.url)
    raise ShardError(f"{reader.url} holds no GeoTIFF named KEY.tN.tif.")


def _as_it_is(made: T) -> T:
    return made


def _one_thread(worker: int) -> None:
    """Runs first in a worker: every one has a core of its own to use, not all of them."""
    del worker
    cv2.setNumThreads(1)
