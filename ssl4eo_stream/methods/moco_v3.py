"""MoCo v3 (Chen et al. 2021, arXiv:2104.02057): find the other view among the batch's.

Shapes: B samples of this rank, W ranks, C channels, D embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ssl4eo_stream import distributed
from ssl4eo_stream.backbones import VisionTransformer, to_input
from ssl4eo_stream.methods.batch_norm import over_all_ranks
from ssl4eo_stream.methods.collapse import spread
from ssl4eo_stream.methods.heads import normed_mlp
from ssl4eo_stream.methods.positions import sincos_table
from ssl4eo_stream.methods.teacher import MovingAverage, frozen_copy, momentum_at


@dataclass(frozen=True, kw_only=True)
class MoCoV3Config:
    """What defines a run; the defaults are SSL4EO-S12's (released `pretrain_moco_v3_s2c.py`)."""

    dim: int = 256
    """Length of the embedding that is compared."""
    hidden: int = 4096
    """Width of the hidden layers of projector and predictor."""
    momentum: float = 0.99
    """The momentum encoder's at first; half a cosine takes it to 1."""
    temperature: float = 0.2
    """Cosine similarities are divided by this."""
    freeze_patch_embedding: bool = True
    """Whether the first layer stays as it was drawn, which keeps ViTs from diverging."""

    def __post_init__(self) -> None:
        for name in ("dim", "hidden"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--method.{name} is {value}; it must be at least 1.")
        if not 0 <= self.momentum <= 1:
            raise ValueError(f"--method.momentum is {self.momentum}; it must be within 0-1.")
        if self.temperature <= 0:
            raise ValueError(f"--method.temperature is {self.temperature}; it must be above 0.")


class Encoder(nn.Module):
    """A ViT and its projector: images in, embeddings out."""

    def __init__(self, backbone: VisionTransformer, config: MoCoV3Config) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = normed_mlp(backbone.num_features, config.hidden, config.hidden, config.dim)

    def forward(self, images: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return one embedding per image."""
        dtype = next(self.head.parameters()).dtype
        return self.head(self.backbone(to_input(images, dtype=dtype)))


class MoCoV3(nn.Module):
    """An encoder with a predictor, and its moving average that encodes keys.

    Batch norms act over all ranks.

    Args:
        backbone: A ViT; its weights are drawn anew, as MoCo-v3's code does.
        config: What defines the run.
    """

    def __init__(self, backbone: VisionTransformer, config: MoCoV3Config) -> None:
        super().__init__()
        self.config = config
        initialize(backbone)
        backbone.patch_embed.requires_grad_(not config.freeze_patch_embedding)
        self.base_encoder = Encoder(backbone, config)
        self.predictor = normed_mlp(config.dim, config.hidden, config.dim)
        over_all_ranks(self)
        self.momentum_encoder = frozen_copy(self.base_encoder)
        self.average = MovingAverage(self.momentum_encoder, student=self.base_encoder)
        self.metrics: dict[str, Tensor] = {}
        self.compiled = ("base_encoder.forward", "predictor.forward", "momentum_encoder.forward")

    @property
    def backbone(self) -> nn.Module:
        """The network that is kept after training."""
        return self.base_encoder.backbone

    @torch.no_grad()
    def before_step(self, *, epoch: float, epochs: int) -> None:
        """Move the momentum encoder: before the keys of the step, after the update of the last."""
        momentum = momentum_at(epoch / epochs, start=self.config.momentum)
        self.average.move(momentum=momentum)

    def forward(self, views: Sequence[UInt8[Tensor, "b c h w"]]) -> Float[Tensor, ""]:
        """Return the loss of two views of the same places."""
        x1, x2 = views
        q1, q2 = (self.predictor(self.base_encoder(x)) for x in (x1, x2))  # (B, D) each
        with torch.no_grad():
            k1, k2 = (self.momentum_encoder(x) for x in (x1, x2))
            keys = distributed.gather_rows(torch.stack([k1, k2], dim=1))  # (W * B, 2, D)
        self.metrics = {"spread": spread(k1)}
        return self.contrast(q1, keys[:, 1]) + self.contrast(q2, keys[:, 0])

    def contrast(self, q: Float[Tensor, "b d"], keys: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """Return 2 T times the cross-entropy of finding each query's key among all ranks' keys."""
        temperature = self.config.temperature
        with torch.autocast(q.device.type, enabled=False):
            precise = torch.promote_types(q.dtype, torch.float32)
            q, keys = F.normalize(q.to(precise), dim=1), F.normalize(keys.to(precise), dim=1)
            logits = q @ keys.T / temperature  # (B, W * B)
            labels = torch.arange(len(q), device=q.device) + len(q) * distributed.rank()
            return 2 * temperature * F.cross_entropy(logits, labels)

    def before_update(self) -> None:
        """Leave the gradients as they are."""

    def after_step(self) -> None:
        """Do nothing: the momentum encoder moves before a step."""


@torch.no_grad()
def initialize(vit: VisionTransformer) -> None:
    """Draw a ViT's weights as MoCo-v3's code does.

    Positions are a fixed table, row first. Linear layers are Xavier-uniform, q, k and v each by
    itself. The patch embedding has the Xavier bound of *three* channels whatever the number of
    bands: so it was for the released weights, and frozen it stays so.
    """
    assert vit.cls_token is not None
    assert vit.pos_embed is not None
    grid = vit.patch_embed.grid_size[0]
    vit.pos_embed.copy_(sincos_table(vit.embed_dim, grid=grid, first="row"))
    vit.pos_embed.requires_grad_(False)
    nn.init.normal_(vit.cls_token, std=1e-6)
    for name, module in vit.blocks.named_modules():
        if isinstance(module, nn.Linear):
            outputs = module.out_features // 3 if name.endswith("qkv") else module.out_features
            bound = math.sqrt(6 / (outputs + module.in_features))
            nn.init.uniform_(module.weight, -bound, bound)
            nn.init.zeros_(module.bias)
    embedding = vit.patch_embed.proj
    assert isinstance(embedding, nn.Conv2d)
    assert embedding.bias is not None
    bound = math.sqrt(6 / (3 * embedding.kernel_size[0] ** 2 + vit.embed_dim))
    nn.init.uniform_(embedding.weight, -bound, bound)
    nn.init.zeros_(embedding.bias)
