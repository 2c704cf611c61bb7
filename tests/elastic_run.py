"""A run that counts the locations it was trained on; `torchrun tests/elastic_run.py --data …`.

A location is recognised by its pixels alone: every byte of its first band is `id // 256`, of its
second `id % 256`, so that any crop shows them and no key, order or index is believed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl4eo_stream import distributed
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.train.loop import train
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.run import Run, from_command_line
from ssl4eo_stream.train.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Counting:
    """What defines the method."""

    most_ids: int = 512
    """Ids are below this."""


class Seen(nn.Module):
    """Counts locations over all ranks, and trains a weight so that there is something to reduce."""

    def __init__(self, config: Counting, channels: int) -> None:
        super().__init__()
        self.backbone = nn.Linear(channels, 1)
        self.metrics: dict[str, Tensor] = {}
        self.register_buffer("seen", torch.zeros(config.most_ids, dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Count a batch's locations, wherever they are trained on."""
        first, second = (ids_of(view) for view in views)
        assert torch.equal(first, second), "the views of a sample show two locations"
        self.seen += torch.bincount(distributed.gather_rows(first), minlength=len(self.seen))
        return self.backbone(views[0].float().mean((2, 3)) / 255).square().mean()

    def before_step(self, *, epoch: float, epochs: int) -> None:
        """Get ready for a step: nothing depends on when it is."""

    def before_update(self) -> None:
        """Leave the gradients."""

    def after_step(self) -> None:
        """Count the step."""
        self.steps += 1


def ids_of(view):
    """Ids (B,) of a view (B, 2, H, W), all of whose pixels must tell them."""
    digits = view[:, :, 0, 0].long()
    assert torch.equal(view, digits.to(torch.uint8)[:, :, None, None].expand_as(view))
    return digits[:, 0] * 256 + digits[:, 1]


RUN = Run(
    name="elastic",
    views=MoCoViews(size=8, jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0),
    method=Counting(),
    optimizer=Optimizer(lr=0.01),
    schedule=Schedule(every="epoch"),
    batch_size=12,
    epochs=3,
    device="cpu",
    log_every=1,
    checkpoint_minutes=0.0,
    checkpoint_keep_epochs=1,
)


def build(run: Run[Counting], channels: int) -> Seen:
    """Assemble the model."""
    return Seen(run.method, channels)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(from_command_line(RUN), build)
