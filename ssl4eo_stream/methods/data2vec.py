"""data2vec for images (Baevski et al. 2022, arXiv:2202.03555): predict a teacher's inner states.

Shapes: B samples, C channels, G x G patches, M masked ones of all samples, D width.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from ssl4eo_stream.backbones import Beit, TransformerSize, beit, to_input
from ssl4eo_stream.methods.block_masks import block_mask
from ssl4eo_stream.methods.collapse import spread
from ssl4eo_stream.methods.teacher import MovingAverage, frozen_copy, without_drop_path


@dataclass(frozen=True, kw_only=True)
class Data2VecConfig:
    """What defines a run; the defaults are SSL4EO-S12's and those of Facebook's vision code."""

    masked: int = 120
    """Patches to mask, of 196; a little fewer where blocks do not fit."""
    smallest_block: int = 16
    """Least area of a block in patches."""
    largest_block: int = 196
    """Greatest area of a block in patches."""
    target_layers: int = 6
    """How many of the teacher's last blocks are averaged into the target."""
    beta: float = 2.0
    """Where the loss turns from square to linear."""
    momentum: float = 0.9998
    """The teacher becomes momentum * itself + (1 - momentum) * student at every step."""
    momentum_start: float = 0.999
    """The same at first, if it rises."""
    momentum_rises_epochs: int = 0
    """Epochs in which it goes from its start to its end in a straight line."""
    normalize_targets: bool = True
    """Whether the mean of the layers is normalized once more."""
    layer_scale: float = 1e-4
    """What every residual branch is first multiplied by."""
    drop_path: float = 0.25
    """Chance that the student's last block is left out for a sample."""
    attention_dropout: float = 0.05
    """Chance that an attention weight of the student is dropped."""

    def __post_init__(self) -> None:
        for name in ("masked", "smallest_block", "target_layers"):
            if (value := getattr(self, name)) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--method.{flag} is {value}; it must be at least 1.")
        if self.largest_block < self.smallest_block:
            raise ValueError(
                f"--method.largest-block {self.largest_block} is below "
                f"--method.smallest-block {self.smallest_block}."
            )
        for name in ("momentum", "momentum_start", "drop_path", "attention_dropout"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--method.{flag} is {value}; it must be within 0-1.")
        if self.beta <= 0:
            raise ValueError(f"--method.beta is {self.beta}; it must be above 0.")


def student_backbone(
    size: TransformerSize, config: Data2VecConfig, *, in_channels: int, image_pixels: int
) -> Beit:
    """Return the BEiT that a run trains, arguments as of `backbones.beit`."""
    return beit(
        size, in_channels=in_channels, image_pixels=image_pixels, layer_scale=config.layer_scale,
        drop_path=config.drop_path, attention_dropout=config.attention_dropout,
    )  # fmt: skip


class Student(nn.Module):
    """A BEiT that sees mask tokens, and predicts from them."""

    def __init__(self, backbone: Beit) -> None:
        super().__init__()
        dim = backbone.num_features
        self.backbone = backbone
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.lm_head = nn.Linear(dim, dim)
        _initialize(self)

    def forward(
        self, images: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b l"], rows: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m d"]:
        """Return predictions for the masked patches, sample by sample, row by row.

        Args:
            images: What is only seen where it is not masked.
            mask: What is hidden.
            rows: The places where `mask` is true, counted over all samples.
        """
        last = self.backbone.norm(self.layers(images, mask)[-1])[:, 1:]
        return self.lm_head(last.flatten(0, 1)[rows])

    def layers(
        self, images: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b l"] | None
    ) -> list[Float[Tensor, "b one_plus_l d"]]:
        """Return every block's output, the class token in front, mask tokens where `mask` says."""
        vit = self.backbone
        assert vit.rel_pos_bias is not None
        tokens = vit.patch_embed(images)
        if mask is not None:
            tokens = torch.where(mask[:, :, None], self.mask_token.to(tokens.dtype), tokens)
        x = torch.cat([vit.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)
        bias = vit.rel_pos_bias()
        outputs = []
        for block in vit.blocks:
            x = block(x, shared_rel_pos_bias=bias)
            outputs.append(x)
        return outputs


class Data2Vec(nn.Module):
    """A student that sees a part of the image, and its moving average that sees all of it.

    Args:
        backbone: A BEiT; its weights are drawn anew, as data2vec's code does. Its drop path and
            dropout are the student's alone.
        config: What defines the run.

    Raises:
        ValueError: More layers are to be targets than there are, or more patches masked.
    """

    def __init__(self, backbone: Beit, config: Data2VecConfig) -> None:
        super().__init__()
        depth, cells = len(backbone.blocks), backbone.patch_embed.num_patches
        if config.target_layers > depth or config.masked >= cells:
            raise ValueError(
                f"--method.target-layers {config.target_layers} and --method.masked "
                f"{config.masked} must not exceed the network's {depth} blocks and be below its "
                f"{cells} patches."
            )
        self.config, self.grid = config, backbone.patch_embed.grid_size[0]
        self.student = Student(backbone)
        self.teacher = without_drop_path(frozen_copy(self.student)).eval()
        self.average = MovingAverage(self.teacher, student=self.student)
        self.metrics: dict[str, Tensor] = {}
        self.compiled = ("student.layers", "teacher.layers")
        self.momentum = config.momentum

    @property
    def backbone(self) -> nn.Module:
        """The network that is kept after training: the teacher's."""
        return self.teacher.backbone

    def train(self, mode: bool = True) -> "Data2Vec":
        """Switch the student's mode; the teacher never drops anything."""
        super().train(mode)
        self.teacher.eval()
        return self

    def before_step(self, *, epoch: float, epochs: int) -> None:  # noqa: ARG002 - the ramp's own end
        """Set the teacher's momentum."""
        config = self.config
        self.momentum = rising(epoch, config.momentum_start, config.momentum,
                               until=float(config.momentum_rises_epochs))  # fmt: skip

    def forward(self, views: Sequence[UInt8[Tensor, "b c h w"]]) -> Float[Tensor, ""]:
        """Return the loss of one view of places."""
        (images,) = views
        pixels = to_input(images, dtype=self.student.mask_token.dtype)
        hidden = torch.from_numpy(self.masks(len(images))).flatten(1)  # (B, G * G)
        rows = hidden.flatten().nonzero()[:, 0]  # on the CPU: the GPU is not waited for
        mask, rows = (each.to(images.device, non_blocking=True) for each in (hidden, rows))
        with torch.no_grad():
            targets = self.targets(pixels, rows)  # (M, D)
        predicted = self.student(pixels, mask, rows)  # (M, D)
        self.metrics = {"spread": spread(targets)}
        with torch.autocast(images.device.type, enabled=False):
            return F.smooth_l1_loss(predicted.to(targets.dtype), targets, beta=self.config.beta)

    def masks(self, count: int) -> Bool[np.ndarray, "b g g"]:
        """Return masks drawn from torch's CPU generator."""
        config = self.config
        rng = random.Random(int(torch.randint(2**62, ())))
        masks = [
            block_mask(rng, grid=self.grid, count=config.masked, smallest=config.smallest_block,
                       largest=config.largest_block)
            for _ in range(count)
        ]  # fmt: skip
        return np.stack(masks)

    def targets(
        self, images: Float[Tensor, "b c h w"], rows: Int64[Tensor, " m"]
    ) -> Float[Tensor, "m d"]:
        """Return what the teacher holds of the masked patches, seeing the whole image."""
        layers = self.teacher.layers(images, None)[-self.config.target_layers :]
        # only the rows that count are normalized
        masked = [layer[:, 1:].flatten(0, 1)[rows] for layer in layers]
        return mean_of_layers(masked, normalize=self.config.normalize_targets)

    def before_update(self) -> None:
        """Leave the gradients as they are."""

    def after_step(self) -> None:
        """Move the teacher."""
        self.average.move(momentum=self.momentum)


def mean_of_layers(
    layers: Sequence[Float[Tensor, "m d"]], *, normalize: bool
) -> Float[Tensor, "m d"]:
    """Return the layers' mean, each normalized over D, and the mean once more if `normalize`."""
    with torch.autocast(layers[0].device.type, enabled=False):
        precise = torch.promote_types(layers[0].dtype, torch.float32)
        width = layers[0].shape[-1:]
        normalized = [F.layer_norm(layer.to(precise), width) for layer in layers]
        mean = torch.stack(normalized).mean(dim=0)
        return F.layer_norm(mean, width) if normalize else mean


def rising(at: float, first: float, last: float, *, until: float) -> float:
    """Return where a straight line from `first` to `last` stands, which it reaches at `until`."""
    return last if at >= until else first + at * (last - first) / until


@torch.no_grad()
def _initialize(student: Student) -> None:
    """Draw weights as BEiT's code does: normal of 0.02 cut at one deviation, outputs rescaled."""
    vit = student.backbone
    for module in student.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            _narrow(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for token in (vit.cls_token, student.mask_token):
        _narrow(token)
    for number in range(len(vit.blocks)):
        for layer in ("attn.proj", "mlp.fc2"):
            weight = vit.blocks.get_parameter(f"{number}.{layer}.weight")
            weight.div_(math.sqrt(2 * (number + 1)))


def _narrow(weight: Tensor) -> None:
    nn.init.trunc_normal_(weight, std=0.02, a=-0.02, b=0.02)
