"""What the loader hands out: tensors over a batch's memory, without a copy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from ssl4eo_stream.sample import location_key
from ssl4eo_stream.stream.pool import Rendered
from ssl4eo_stream.stream.ring import Shape, layout


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B samples, each seen in V views."""

    views: tuple[UInt8[Tensor, "b c _ _"], ...]
    """One tensor per view: bytes as stored, value = byte * scale + offset of the manifest."""
    keys: list[str]
    """Location ids, seven digits."""
    dates: Int64[Tensor, "b v"]
    """Which of its location's dates each view shows, counted in order of time."""


def as_batch(rendered: Rendered, *, shapes: tuple[Shape, ...]) -> Batch:
    """Return a rendered batch as tensors; its memory is lent as long as one of them lives.

    Args:
        rendered: What a reader filled.
        shapes: Each view's (C, H, W).
    """
    memory = torch.from_numpy(rendered.memory)
    size = len(rendered.samples.ids)
    starts, _ = layout(shapes, batch_size=size)
    return Batch(
        views=tuple(
            memory[start : start + size * channels * height * width].view(
                size, channels, height, width
            )
            for start, (channels, height, width) in zip(starts, shapes, strict=True)
        ),
        keys=[location_key(location) for location in rendered.samples.ids.tolist()],
        dates=torch.from_numpy(rendered.samples.dates),
    )


def pin(memory: UInt8[np.ndarray, " bytes"]) -> Callable[[], None]:
    """Lock the pages of shared memory, so that a GPU copies from it while the processor goes on.

    Returns:
        What undoes it; the memory must still be there then.

    Raises:
        RuntimeError: CUDA refuses, for example because too much is locked already (ulimit -l).
    """
    cudart: Any = torch.cuda.cudart()
    torch.cuda.check_error(int(cudart.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0)))
    return lambda: torch.cuda.check_error(int(cudart.cudaHostUnregister(memory.ctypes.data)))
