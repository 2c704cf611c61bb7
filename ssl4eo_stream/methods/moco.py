"""MoCo v2 (Chen et al. 2020, arXiv:2003.04297): find the other view of a place among many places.

Shapes: B samples of this rank, W ranks, C channels, D embedding, K queue.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from ssl4eo_stream import distributed
from ssl4eo_stream.backbones import to_input
from ssl4eo_stream.methods.collapse import spread
from ssl4eo_stream.methods.heads import projection
from ssl4eo_stream.methods.teacher import MovingAverage, frozen_copy


@dataclass(frozen=True, kw_only=True)
class MoCoConfig:
    """What defines a MoCo run; the defaults are those of SSL4EO-S12's ResNet-50."""

    dim: int = 128
    """Length of the embedding that is compared."""
    queue: int = 65_536
    """Keys of earlier batches that serve as negatives; a multiple of the global batch."""
    momentum: float = 0.999
    """The key encoder becomes momentum * itself + (1 - momentum) * query encoder at every step."""
    temperature: float = 0.2
    """Cosine similarities are divided by this."""
    batch_norm_groups: int = 4
    """Parts of the global batch that see their own batch norm statistics, at least; each rank
    splits its share until there are that many, so that one GPU trains as four did. With 1 on a
    single GPU the shuffle has no effect and a query can recognize its key by the statistics."""

    def __post_init__(self) -> None:
        for name in ("dim", "queue", "batch_norm_groups"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--method.{name} is {value}; it must be at least 1.")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"--method.momentum is {self.momentum}; it must be within 0-1.")
        if self.temperature <= 0:
            raise ValueError(f"--method.temperature is {self.temperature}; it must be above 0.")


class Encoder(nn.Module):
    """A backbone and its projection: images in, unnormalized embeddings out."""

    def __init__(self, backbone: nn.Module, *, dim: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = projection(int(backbone.num_features), dim=dim)  # type: ignore[arg-type]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return one embedding per image."""
        return self.head(self.backbone(images))


class MoCo(nn.Module):
    """A query encoder, its moving average that encodes keys, and a queue of keys.

    Args:
        backbone: Maps images to `backbone.num_features` features.
        config: What defines the run.
    """

    queue: Tensor
    queue_pointer: Tensor

    def __init__(self, backbone: nn.Module, config: MoCoConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder_q = Encoder(backbone, dim=config.dim)
        self.encoder_k = frozen_copy(self.encoder_q)
        self.average = MovingAverage(self.encoder_k, student=self.encoder_q)
        self.register_buffer("queue", F.normalize(torch.randn(config.dim, config.queue), dim=0))
        self.register_buffer("queue_pointer", torch.zeros(1, dtype=torch.int64))
        self.shuffler = torch.Generator().manual_seed(torch.initial_seed())
        self.metrics: dict[str, Tensor] = {}
        self.compiled = ("encoder_q.forward", "encoder_k.forward")

    @property
    def backbone(self) -> nn.Module:
        """The network that is kept after training."""
        return self.encoder_q.backbone

    def forward(self, views: Sequence[UInt8[Tensor, "b c h w"]]) -> Float[Tensor, ""]:
        """Return the loss of two views of the same places, and learn their keys.

        Raises:
            ValueError: The queue is no multiple of the global batch, or the batch none of the
                batch norm groups.
        """
        query_images, key_images = views
        q = self.encode(self.encoder_q, query_images)  # (B, D)
        with torch.no_grad():
            keys = self.shuffled_keys(key_images)  # (W * B, D)
        k = _own_rows(keys)  # (B, D)
        logits = self.logits(q, k)  # (B, 1 + K)
        labels = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        found = logits.detach().argmax(dim=1) == labels
        self.metrics = {"top1": found.float().mean(), "spread": spread(q)}
        self.enqueue(keys)
        return F.cross_entropy(logits, labels)

    @torch.no_grad()
    def before_step(self, *, epoch: float, epochs: int) -> None:  # noqa: ARG002 - always the same
        """Move the key encoder: before the keys of the step, after the update of the last."""
        self.average.move(momentum=self.config.momentum)

    def before_update(self) -> None:
        """Leave the gradients as they are."""

    def after_step(self) -> None:
        """Do nothing: the key encoder moves before a step."""

    def logits(
        self, q: Float[Tensor, "b d"], k: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b one_plus_k"]:
        """Return similarities / temperature: the own key in column 0, then the queue's."""
        # the queue changes before the backward pass needs it, hence the copy
        with torch.autocast(q.device.type, enabled=False):
            positive = (q * k).sum(dim=1, keepdim=True)
            negative = q @ self.queue.clone()
            return torch.cat([positive, negative], dim=1) / self.config.temperature

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "n d"]) -> None:
        """Overwrite the oldest keys of the queue by these."""
        size, count = self.queue.shape[1], len(keys)
        if size % count:
            nearest = max(1, round(size / count)) * count
            raise ValueError(
                f"--method.queue {size} is no multiple of the global batch of {count}, so it "
                f"could not be filled evenly. The nearest that fits is --method.queue {nearest}."
            )
        columns = (self.queue_pointer + torch.arange(count, device=keys.device)) % size
        self.queue.index_copy_(1, columns, keys.T)
        self.queue_pointer.copy_((self.queue_pointer + count) % size)

    def encode(self, encoder: nn.Module, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return unit embeddings in the queue's precision, batch norm acting group by group."""
        ranks = distributed.world_size()
        groups = -(-self.config.batch_norm_groups // ranks)
        if len(images) % groups:
            raise ValueError(
                f"A batch of {len(images)} per rank does not split into {groups} batch norm groups "
                f"(--method.batch-norm-groups {self.config.batch_norm_groups} over {ranks} ranks). "
                "Change --batch-size or --method.batch-norm-groups."
            )
        embeddings = []
        for group, part in enumerate(images.chunk(groups)):
            with _batch_statistics_only(encoder, when=group > 0):
                embeddings.append(encoder(to_input(part, dtype=self.queue.dtype)))
        return F.normalize(torch.cat(embeddings).to(self.queue.dtype), dim=1)

    def shuffled_keys(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "n d"]:
        """Return the keys of all ranks' images in rank order.

        Each group of images is drawn from all ranks, so that its batch norm statistics say nothing
        about which query belongs to which key.
        """
        everyone = distributed.gather_rows(images)  # (W * B, C, H, W), bytes: a quarter of floats
        order = self.permutation(len(everyone)).to(images.device)
        keys = self.encode(self.encoder_k, everyone[_own_rows(order)])
        return distributed.gather_rows(keys)[order.argsort()]

    def permutation(self, count: int) -> Int64[Tensor, " n"]:
        """Return rank 0's next random order of `count` images, the same on every rank."""
        return distributed.broadcast(torch.randperm(count, generator=self.shuffler))

    def get_extra_state(self) -> Tensor:
        """Return the shuffler's state, so that a resumed run shuffles as if it had not stopped."""
        return self.shuffler.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Take over a state that `get_extra_state` returned."""
        self.shuffler.set_state(state.cpu())


def _own_rows(rows: Tensor) -> Tensor:
    """Return this rank's part of rows that all ranks hold."""
    return rows.chunk(distributed.world_size())[distributed.rank()]


@contextmanager
def _batch_statistics_only(network: nn.Module, *, when: bool) -> Iterator[None]:
    """Keep batch norms from recording running statistics.

    Only the first group records, as only rank 0's statistics survive in a run with a GPU a group.
    """
    if not when:
        yield
        return
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
