"""The moving-average copy of a network that methods learn against."""

import copy
from typing import TypeVar

import torch
from torch import nn

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
