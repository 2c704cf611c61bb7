"""Nearest neighbours: what features know of classes without anything being trained.

As in DINO's evaluation (Caron et al. 2021, appendix F; Wu et al. 2018, arXiv:1805.01978): the k
most alike by cosine vote, each with the weight exp(cosine / temperature).
N images that ask, M that answer, D features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ssl4eo_stream import distributed
from ssl4eo_stream.bands import Band
from ssl4eo_stream.evaluate.datasets import eurosat
from ssl4eo_stream.evaluate.features import features

ASKED_AT_ONCE = 1024
"""Images that ask at the same time: EuroSAT's cosines all at once would be 1.5 GB."""


def votes(
    asking: Float[Tensor, "n d"],
    answering: Float[Tensor, "m d"],
    classes: Int64[Tensor, " m"],
    *,
    neighbours: int,
    temperature: float,
) -> Float[Tensor, "n classes"]:
    """Return every class's share of the neighbours' votes.

    Args:
        asking: Features of any length.
        answering: Features of any length.
        classes: What those that answer are, from 0.
        neighbours: How many vote.
        temperature: Cosines are divided by this.
    """
    answering = F.normalize(answering, dim=1)
    neighbours, count = min(neighbours, len(answering)), int(classes.max()) + 1
    shares = []
    for some in F.normalize(asking, dim=1).split(ASKED_AT_ONCE):
        nearest, which = (some @ answering.T).topk(neighbours, dim=1)  # (n, neighbours) each
        weights = (nearest / temperature).softmax(dim=1)
        empty = weights.new_zeros(len(some), count)
        shares.append(empty.scatter_add_(1, classes[which], weights))
    return torch.cat(shares)


@dataclass(frozen=True, kw_only=True)
class EuroSATNeighbours:
    """Asks nearest neighbours in EuroSAT while a network is trained.

    Half of each class's images ask, the other half answers.
    """

    eurosat: Path | None = None
    """EuroSAT's folder, tar or zip, of 13-band GeoTIFFs or RGB JPEGs; nothing is asked without."""
    every_epochs: int = 5
    """Epochs between two times; it is also asked before the first step and after the last."""
    neighbours: int = 20
    """How many vote."""
    temperature: float = 0.07
    """A vote weighs exp(cosine / this)."""

    def __post_init__(self) -> None:
        for name in ("every_epochs", "neighbours"):
            if (value := getattr(self, name)) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--probe.{flag} is {value}; it must be at least 1.")
        if self.temperature <= 0:
            raise ValueError(f"--probe.temperature is {self.temperature}; it must be above 0.")

    def opened(
        self, *, bands: Sequence[Band], pixels: int
    ) -> Callable[[nn.Module], dict[str, float]] | None:
        """Read the images and return what asks a backbone; None if there is nothing to ask.

        Args:
            bands: The bands that the backbone takes.
            pixels: Side of the images that it takes.

        Raises:
            ValueError: There is no EuroSAT, or it lacks a band.
            SourceError: A file is damaged.
        """
        if self.eurosat is None:
            return None
        data = eurosat.read(self.eurosat, bands=bands, quiet=distributed.rank() > 0)
        images, asks = torch.from_numpy(data.images), torch.from_numpy(data.asked)

        def ask(backbone: nn.Module) -> dict[str, float]:
            # Features of a network just drawn may differ in the eighth digit only.
            found = features(backbone, images, pixels=pixels).double()
            classes = torch.from_numpy(data.classes).to(found.device)
            asking, answering = asks.to(found.device), ~asks.to(found.device)
            shares = votes(
                found[asking], found[answering], classes[answering],
                neighbours=self.neighbours, temperature=self.temperature,
            )  # fmt: skip
            right = shares.argmax(dim=1) == classes[asking]
            return {"knn_eurosat": float(right.float().mean())}

        return ask
