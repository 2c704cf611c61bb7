"""MoCo v2 written slowly from the formulas, and the network of the parity files."""

import numpy as np
import torch
from torch import nn


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def loss_and_queue(q, k, queue, *, pointer, temperature):
    """One step on unit rows: mean loss, queue (C, K) afterwards, pointer afterwards."""
    losses = []
    for query, key in zip(q, k, strict=True):
        scores = [query @ key] + [query @ queue[:, j] for j in range(queue.shape[1])]
        exps = np.exp(np.array(scores) / temperature)
        losses.append(-np.log(exps[0] / exps.sum()))
    queue = queue.copy()
    for key in k:
        queue[:, pointer] = key
        pointer = (pointer + 1) % queue.shape[1]
    return float(np.mean(losses)), queue, pointer


class TinyConvNet(nn.Module):
    """The parity files' encoder without its `fc`: two strided convolutions and a mean."""

    num_features = 16

    def __init__(self, in_channels: int = 13) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x))).mean(dim=(2, 3))
