"""The moving-average copy of a network that methods learn against."""

import copy
import math
from typing import TypeVar

import torch
from torch import nn

from ssl4eo_stream.backbones import DropPath

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(student: Network) -> Network:
    """Return a copy that no gradient reaches."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def move_towards(teacher: nn.Module, *, student: nn.Module, momentum: float) -> None:
    """Set every parameter of the teacher to momentum * teacher + (1 - momentum) * student.

    Buffers stay: a teacher in training mode gathers its own batch norm statistics.
    """
    slow, fast = tuple(teacher.parameters()), tuple(student.parameters())
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
