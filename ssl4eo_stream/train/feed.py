"""Batches from a loader onto the device that trains."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ssl4eo_stream.stream.loader import Batch


@runtime_checkable
class Loader(Protocol):
    """What the loop needs of a `StreamLoader`."""

    @property
    def channels(self) -> int:
        """Channels of every view."""
        ...

    @property
    def epoch(self) -> int:
        """The epoch that the next iterator goes over; it begins the next one when exhausted."""
        ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the place behind the batches handed out."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place that `state_dict` described."""
        ...

    def stats(self) -> dict[str, float]:
        """Return at least `wait_share` since the last call."""
        ...


Render = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""What makes views of what workers hand over; see ssl4eo_stream.augment.device."""


def on_device(
    loader: Loader, *, device: torch.device, render: Render | None = None
) -> Iterator[tuple[Sequence[Tensor], list[str]]]:
    """Yield the rest of the epoch on a device, copied while the step before still runs.

    Each batch is its views and its location ids.

    Args:
        loader: Where batches come from.
        device: Where they go.
        render: Makes the views there, where workers only decode.
    """
    if device.type != "cuda":
        for batch in loader:
            yield (render(batch.views) if render else batch.views), batch.keys
        return
    copies = torch.cuda.Stream(device)
    compute = torch.cuda.current_stream(device)
    for batch in loader:
        with torch.cuda.stream(copies):
            views: Sequence[Tensor] = [each.to(device, non_blocking=True) for each in batch.views]
        compute.wait_stream(copies)
        for view in views:
            view.record_stream(compute)
        yield (render(views) if render else views), batch.keys
        copies.synchronize()  # the loader writes over a batch's bytes once nobody holds it
        del batch
