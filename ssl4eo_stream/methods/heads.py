"""Projections that methods put behind a backbone."""

from torch import nn


def projection(width: int, *, dim: int) -> nn.Sequential:
    """Return Linear-ReLU-Linear from `width` features to `dim`, MoCo-v2's head."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))
