"""What a reader is told: where bytes lie, how to read them, and what to make of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.retry import RetryPolicy
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.catalog import Source
from ssl4eo_stream.stream.decode import Planes

OnError = Literal["raise", "replace"]


@runtime_checkable
class Views(Protocol):
    """What a method sees of a sample; see `ssl4eo_stream.augment.views`."""

    @property
    def num_views(self) -> int:
        """Views per sample."""
        ...

    def shapes(self, num_channels: int) -> tuple[tuple[int, int, int], ...]:
        """Return each view's (C, H, W)."""
        ...

    def dates(self, num_dates: int, *, rng: np.random.Generator) -> tuple[int, ...]:
        """Return which of a sample's dates each view shows."""
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
class Reading:
    """How bytes are read, and what happens where they cannot be.

    Raises:
        ValueError: A field is out of its range.
    """

    on_error: OnError = "raise"
    """What to do about a sample that cannot be had: stop, or put the next good one of its block in
    its place, so that steps stay equal on all ranks."""
    replace_budget: float = 0.01
    """Part of an epoch's samples on one rank that may be replaced, 0-1; more of them stop it."""
    quarantine: Path | None = None
    """JSON Lines file that replaced samples are listed in."""
    cache: Path | None = None
    """Folder on a local disk to keep what was read; all processes of a node may share it."""
    cache_gigabytes: float = 64.0
    """Size that the cache never exceeds, in 10^9 bytes."""
    prefetch_bytes: int = 128 << 20
    """Bytes that one worker may hold ahead of need."""
    connections: int = 8
    """Requests at a time of one worker."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """How long storage is waited for."""

    def __post_init__(self) -> None:
        for name in ("prefetch_bytes", "connections", "cache_gigabytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be over 0.")
        if not 0 <= self.replace_budget <= 1:
            raise ValueError(
                f"replace_budget is {self.replace_budget}; it must be between 0 and 1."
            )

    def store(self, url: str, *, options: Mapping[str, Any] | None) -> Store:
        """Open a folder of shards as this says; see `Store.open`."""
        return Store.open(url, options=options, retry=self.retry)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that a reader must know, small and picklable."""

    sources: tuple[Source, ...]
    """What is read of every product."""
    storage_options: Mapping[str, Any] | None
    """obstore's configuration."""
    views: Views
    """Draws the views."""
    batch_size: int
    """Samples per batch."""
    sensor_drop: float
    """Chance that a view shows one product alone, the others black."""
    reading: Reading
    """How bytes are read."""
