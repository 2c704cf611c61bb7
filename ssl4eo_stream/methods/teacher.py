"""The moving-average copy of a network that methods learn against."""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from ssl4eo_stream.backbones import DropPath

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(student: Network) -> Network:
    """Return a copy that no gradient reaches."""
    return copy.deepcopy(student).requires_grad_(False)


class MovingAverage:
    """Keeps a teacher's parameters the moving average of a student's, in one kernel for all.

    Buffers stay: a teacher in training mode gathers its own batch norm statistics.

    Args:
        teacher: Changed in place.
        student: A network of the same parameters.
    """

    def __init__(self, teacher: nn.Module, *, student: nn.Module) -> None:
        self._networks = teacher, student
        self._parameters: tuple[list[Tensor], ...] = ()

    @torch.no_grad()
    def move(self, *, momentum: float) -> None:
        """Set every parameter of the teacher to momentum * teacher + (1 - momentum) * student."""
        if not self._parameters:  # gathered once; where they lie is settled by the first step
            self._parameters = tuple([*network.parameters()] for network in self._networks)
        slow, fast = self._parameters
        torch._foreach_lerp_(slow, fast, 1 - momentum)  # pyright: ignore[reportPrivateImportUsage]


def momentum_at(share: float, *, start: float) -> float:
    """Return the momentum after a share 0-1 of all steps: half a cosine from `start` to 1."""
    return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * share))


def without_drop_path(network: Network) -> Network:
    """Keep a network in training mode from leaving out blocks: teachers see all of themselves."""
    for module in network.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return network
