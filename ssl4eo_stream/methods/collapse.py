"""Numbers that tell whether a network has begun to answer everything alike."""

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def spread(features: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Return the standard deviation of features of unit length over a batch, times the root of D.

    1 where they point anywhere, 0 where all are one (Chen and He 2021, arXiv:2011.10566, figure 2).
    """
    unit = torch.nn.functional.normalize(features.detach().float(), dim=1)
    return unit.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5


@torch.no_grad()
def entropy(probabilities: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
    """Return the mean entropy of distributions in nats: 0 for one-hot, log K for uniform ones."""
    return torch.special.entr(probabilities).sum(dim=-1).mean()
