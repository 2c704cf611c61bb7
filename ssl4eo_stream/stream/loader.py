"""The stages put together: `StreamLoader`, a DataLoader's look-alike that yields uint8 batches."""

import hashlib
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from ssl4eo_stream import distributed
from ssl4eo_stream.errors import CheckpointError, ShardError
from ssl4eo_stream.shard.manifest import INDEX, MANIFEST, Index, Manifest
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.fetch import Work
from ssl4eo_stream.stream.plan import (
    BLOCK_CHUNKS,
    CHUNK_LOCATIONS,
    STATE_VERSION,
    Position,
    Topology,
    batches_done,
    length,
    num_steps,
    order,
    stream,
    take,
)
from ssl4eo_stream.stream.pool import InProcess, Pool, Rendered
from ssl4eo_stream.stream.reader import Clock, Setup, Views
from ssl4eo_stream.stream.ring import layout


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B locations, each seen in V views."""

    views: tuple[UInt8[Tensor, "b c h w"], ...]
    """One tensor per view: bytes as stored, value = byte * scale + offset of the manifest."""
    keys: list[str]
    """Location ids, seven digits."""
    dates: Int64[Tensor, "b v"]
    """Which of its location's dates each view shows, counted in order of time."""


class StreamLoader:
    """Streams a folder of shards, every location once an epoch, in an order of the seed alone.

    An iterator goes over what is left of the current epoch; when it is exhausted the next begins.
    Leaving an iterator early loses nothing: the next one goes on behind the batches handed out.

    Args:
        url: Folder of shards (`s3://…`, `gs://…`, `az://…`, `http(s)://…`, `file://…`, or a path).
        views: What to see of a location, for example `MoCoViews(size=224)`.
        batch_size: Locations per batch of this rank.
        seed: Decides order, dates and augmentations.
        workers: Processes that fetch, decode and render; 0 does it in this one.
        rank: This process's rank; torch.distributed's if not given.
        world_size: Ranks; torch.distributed's if not given.
        storage_options: obstore's configuration over what the environment says.
        prefetch_bytes: Bytes that one worker may hold ahead of need.
        connections: Requests at a time of one worker.

    Raises:
        StorageError: The folder cannot be read.
        ShardError: It is not a finished data set.
        ValueError: An argument does not fit the data, for example fewer locations than a batch.
    """

    def __init__(
        self,
        url: str,
        *,
        views: Views,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        prefetch_bytes: int = 128 << 20,
        connections: int = 8,
    ) -> None:
        if (rank is None) != (world_size is None):
            raise ValueError("rank and world_size are given together, or neither.")
        self._together = rank is None
        self._rank = distributed.rank() if rank is None else rank
        world = distributed.world_size() if world_size is None else world_size
        for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0),
                                   ("prefetch_bytes", prefetch_bytes, 1),
                                   ("connections", connections, 1)):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} is {value}; it must be at least {least}.")
        if not 0 <= self._rank < world:
            raise ValueError(f"rank {self._rank} is not within a world of {world}.")
        store = Store.open(url, options=storage_options)
        self.manifest, self._index = _read_index(store)
        self.seed, self.url = seed, store.url
        self._topology = Topology(world_size=world, workers=workers, batch_size=batch_size)
        if len(self._index) < self._topology.global_batch:
            raise ValueError(
                f"{store.url} holds {len(self._index)} locations, fewer than one global batch of "
                f"{world} ranks × batch_size {batch_size}. Use a smaller batch, or fewer ranks."
            )
        self._setup = Setup(
            url=url, storage_options=storage_options, manifest=self.manifest, views=views,
            batch_size=batch_size, budget_bytes=prefetch_bytes, connections=connections,
        )  # fmt: skip
        self._shapes = views.shapes(self.channels)
        self._position = self._start_of(0)
        self._pool = (
            Pool(self._setup, shapes=self._shapes, workers=workers)
            if workers
            else InProcess(self._setup, shapes=self._shapes)
        )
        weakref.finalize(self, self._pool.close)
        self._clock = Clock()
        self._wait_seconds, self._window_start = 0.0, time.perf_counter()

    @property
    def channels(self) -> int:
        """Channels of every view: the product's bands."""
        return len(self.manifest.bands)

    @property
    def epoch(self) -> int:
        """Epoch that the next iterator goes over, from 0; setting it goes to that epoch's start."""
        return self._position.epoch

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._position = self._start_of(epoch)

    def __len__(self) -> int:
        """Steps of a whole epoch; what does not fill a global batch is left out."""
        return len(self._index) // self._topology.global_batch

    def _start_of(self, epoch: int) -> Position:
        everything = ((0, len(self._index)),)
        return Position(epoch=epoch, intervals=everything, topology=self._topology, steps=0)

    def state_dict(self) -> dict[str, Any]:
        """Return the place behind the batches handed out: JSON-able, the same on every rank."""
        return {
            "version": STATE_VERSION,
            "seed": self.seed,
            "manifest": self.manifest.hash,
            "chunk_locations": CHUNK_LOCATIONS,
            "block_chunks": BLOCK_CHUNKS,
            **self._position.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the place that `state_dict` described, on this topology.

        Raises:
            CheckpointError: The state belongs to other data, another seed, or another version.
        """
        for name, ours, remedy in (
            ("version", STATE_VERSION, "Resume with the release that wrote it."),
            ("manifest", self.manifest.hash, f"The shards at {self.url} are not those that the "
             "checkpoint was trained on; give their URL, or start a new run."),
            ("seed", self.seed, "Give that seed, or start a new run."),
            ("chunk_locations", CHUNK_LOCATIONS, "Resume with the release that wrote it."),
            ("block_chunks", BLOCK_CHUNKS, "Resume with the release that wrote it."),
        ):  # fmt: skip
            if state.get(name) != ours:
                raise CheckpointError(
                    f"The loader's state has {name} {state.get(name)}, this loader {ours}. {remedy}"
                )
        self._position = Position.from_dict(dict(state)).on(self._topology)

    def __iter__(self) -> Iterator[Batch]:
        position = self._position
        stop = num_steps(position.intervals, position.topology)
        if self._together:
            self._agree(position, stop)
        batches = self._pool.batches(self._works(position), first=position.steps, stop=stop)
        try:
            for step in range(position.steps, stop):
                asked = time.perf_counter()
                batch = self._batch(next(batches))
                self._wait_seconds += time.perf_counter() - asked
                self._position = replace(position, steps=step + 1)
                yield batch
                del batch  # or its slot of the ring would be held while the next one is asked for
            next(batches, None)
        finally:
            batches.close()
        self._position = self._start_of(position.epoch + 1)

    def _works(self, position: Position) -> list[Work]:
        """Return what each of this rank's workers has yet to read."""
        canonical = order(self._index.shards, seed=self.seed, epoch=position.epoch)
        works = []
        for worker in range(self._topology.streams):
            mine = stream(position.intervals, self._topology, rank=self._rank, worker=worker)
            done = batches_done(position.steps, self._topology, worker=worker)
            rest = take(mine, done * self._topology.batch_size, length(mine))
            works.append(
                Work.make(self._index, canonical, rest, seed=self.seed, epoch=position.epoch)
            )
        return works

    def _batch(self, rendered: Rendered) -> Batch:
        self._clock.add(rendered.clock)
        memory = torch.from_numpy(rendered.memory)
        size = self._topology.batch_size
        starts, _ = layout(self._shapes, batch_size=size)
        return Batch(
            views=tuple(
                memory[start : start + size * channels * height * width].view(
                    size, channels, height, width
                )
                for start, (channels, height, width) in zip(starts, self._shapes, strict=True)
            ),
            keys=[f"{location:07d}" for location in rendered.ids.tolist()],
            dates=torch.from_numpy(rendered.dates),
        )

    def _agree(self, position: Position, stop: int) -> None:
        """Stop every rank with a message where one would wait for ever.

        Raises:
            ShardError: Ranks see other data, or are set up differently.
        """
        mine = {
            "manifest": self.manifest.hash, "seed": self.seed, "position": position.to_dict(),
            "steps": stop,
        }  # fmt: skip
        for rank, theirs in enumerate(distributed.gather(mine)):
            for name, value in mine.items():
                if theirs[name] != value:
                    raise ShardError(
                        f"Rank {rank} has another {name} than rank {self._rank}: {theirs[name]} "
                        f"and {value}. All ranks need the same shards, seed, batch and workers."
                    )

    def stats(self) -> dict[str, float]:
        """Return what happened since the last call.

        Returns:
            `samples_per_second` and `megabytes_per_second` handed out; `wait_share`, the part of
            the time in which the trainer waited for a batch; `bytes_per_sample` read; and
            `share_STAGE` for every stage: its part of the readers' working time.
        """
        now = time.perf_counter()
        elapsed = max(now - self._window_start, 1e-9)
        clock, busy = self._clock, sum(self._clock.seconds.values()) or 1.0
        stats = {
            "samples_per_second": clock.samples / elapsed,
            "megabytes_per_second": clock.num_bytes / 1e6 / elapsed,
            "wait_share": self._wait_seconds / elapsed,
            "bytes_per_sample": clock.num_bytes / max(clock.samples, 1),
            **{f"share_{stage}": seconds / busy for stage, seconds in clock.seconds.items()},
        }
        self._clock, self._wait_seconds, self._window_start = Clock(), 0.0, now
        return stats

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers, to watch their memory; none before the first batch."""
        return self._pool.pids

    def close(self) -> None:
        """End the workers; batches still held stay valid."""
        self._pool.close()

    def __enter__(self) -> "StreamLoader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _read_index(store: Store) -> tuple[Manifest, Index]:
    """Read and check what a folder of shards says it holds."""
    manifest = Manifest.from_json(store.read(MANIFEST), url=f"{store.url}/{MANIFEST}")
    data = store.read(INDEX)
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise ShardError(
            f"{store.url}/{INDEX} is not the one that {MANIFEST} belongs to: a copy in progress, "
            "or a build that did not finish. Copy both again, or run ssl4eo-shard build again."
        )
    return manifest, Index.from_parquet(data, url=f"{store.url}/{INDEX}")
