"""Projections that methods put behind a backbone."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def projection(width: int, *, dim: int) -> nn.Sequential:
    """Return Linear-ReLU-Linear from `width` features to `dim`, MoCo-v2's head."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))


def normed_mlp(*widths: int) -> nn.Sequential:
    """Return Linear-BN-ReLU layers, the last without ReLU and affine, no Linear with a bias.

    MoCo-v3's projector and predictor; with the networks' default initialization.

    Args:
        widths: Of the input, of every hidden layer, of the output.
    """
    layers: list[nn.Module] = []
    for number, (before, behind) in enumerate(pairwise(widths)):
        last = number == len(widths) - 2
        layers += [nn.Linear(before, behind, bias=False), nn.BatchNorm1d(behind, affine=not last)]
        layers += [] if last else [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Prototypes(nn.Module):
    """A linear layer without bias whose row j is g_j v_j / |v_j|: DINO's last.

    Args:
        dim: Width of the input.
        count: Rows.
        learn_lengths: Whether the g_j are trained; they are 1 at first.
    """

    def __init__(self, dim: int, count: int, *, learn_lengths: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(count, 1), requires_grad=learn_lengths)
        self.weight_v = nn.Parameter(nn.Linear(dim, count, bias=False).weight.detach())

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Return one score per row."""
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))


class DINOHead(nn.Module):
    """Linear-GELU-Linear-GELU-Linear, unit length, then prototypes; the last two in fp32.

    Args:
        width: Features of the backbone.
        hidden: Width of the two hidden layers.
        bottleneck: Width of what is made unit length.
        count: Prototypes.
        learn_lengths: Whether their lengths are trained.
    """

    def __init__(
        self, width: int, *, hidden: int, bottleneck: int, count: int, learn_lengths: bool
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )  # fmt: skip
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last_layer = Prototypes(bottleneck, count, learn_lengths=learn_lengths)

    def forward(self, features: Float[Tensor, "n w"]) -> Float[Tensor, "n k"]:
        """Return one score per prototype."""
        x = self.mlp(features)
        # softmax(x / 0.04) multiplies bfloat16's rounding by 25
        with torch.autocast(x.device.type, enabled=False):
            return self.last_layer(F.normalize(x.to(self.last_layer.weight_v.dtype), dim=1))
