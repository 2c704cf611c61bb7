"""DINO (Caron et al. 2021, arXiv:2104.14294): a student learns its moving average's answers.

Shapes: B samples of this rank, V crops of which 2 are large, C channels, F features, K prototypes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ssl4eo_stream import distributed
from ssl4eo_stream.backbones import VisionTransformer, to_input
from ssl4eo_stream.methods.batch_norm import over_all_ranks
from ssl4eo_stream.methods.collapse import entropy, spread
from ssl4eo_stream.methods.heads import DINOHead
from ssl4eo_stream.methods.teacher import MovingAverage, frozen_copy, momentum_at, without_drop_path

NUM_GLOBAL = 2
"""Large crops, which the teacher sees."""


@dataclass(frozen=True, kw_only=True)
class DINOConfig:
    """What defines a DINO run; the defaults are SSL4EO-S12's (released `pretrain_dino_s2c.py`)."""

    prototypes: int = 65_536
    """Outputs of the head."""
    hidden: int = 2048
    """Width of the head's hidden layers."""
    bottleneck: int = 256
    """Width of the head before the prototypes."""
    learn_lengths: bool = False
    """Whether the prototypes' lengths are trained too (`norm_last_layer` false in DINO's code)."""
    momentum: float = 0.996
    """The teacher's at first; half a cosine takes it to 1."""
    student_temperature: float = 0.1
    """The student's scores are divided by this."""
    teacher_temperature: float = 0.04
    """The teacher's centred scores are divided by this."""
    teacher_temperature_start: float = 0.04
    """The same in the first epoch, if there is a warm-up."""
    teacher_warmup_epochs: int = 0
    """Epochs in which the teacher's temperature goes from its start to its end."""
    center_momentum: float = 0.9
    """Share of the old centre in the new one."""
    freeze_last_layer_epochs: int = 1
    """Epochs in which the prototypes stay."""
    drop_path: float = 0.1
    """Chance that the student's last block is left out for a sample (vision transformers)."""

    def __post_init__(self) -> None:
        for name in ("prototypes", "hidden", "bottleneck"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--method.{name} is {value}; it must be at least 1.")
        for name in ("momentum", "center_momentum", "drop_path"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--method.{flag} is {value}; it must be within 0-1.")
        for name in ("student_temperature", "teacher_temperature", "teacher_temperature_start"):
            if (value := getattr(self, name)) <= 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--method.{flag} is {value}; it must be above 0.")


class Branch(nn.Module):
    """A backbone and DINO's head."""

    def __init__(self, backbone: nn.Module, config: DINOConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = DINOHead(
            int(backbone.num_features),  # type: ignore[arg-type]
            hidden=config.hidden, bottleneck=config.bottleneck, count=config.prototypes,
            learn_lengths=config.learn_lengths,
        )  # fmt: skip

    def features(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n f"]:
        """Return one feature vector per image of one size."""
        pixels = to_input(images, dtype=self.head.last_layer.weight_v.dtype)
        if isinstance(self.backbone, VisionTransformer):
            return class_tokens(self.backbone, pixels)
        return self.backbone(pixels)


class DINO(nn.Module):
    """A student, its moving average as teacher, and the centre of the teacher's answers.

    Args:
        backbone: Maps images to `backbone.num_features` features; a ViT's drop path is the
            student's alone.
        config: What defines the run.

    Raises:
        ValueError: A ResNet is to drop paths.
    """

    center: Tensor

    def __init__(self, backbone: nn.Module, config: DINOConfig) -> None:
        super().__init__()
        self.config = config
        if isinstance(backbone, VisionTransformer):
            assert backbone.cls_token is not None
            nn.init.trunc_normal_(backbone.cls_token, std=0.02)
        elif config.drop_path:
            raise ValueError(f"--method.drop-path {config.drop_path} is for vision transformers; "
                             "a ResNet has none. Give 0.")  # fmt: skip
        self.student = Branch(over_all_ranks(backbone), config)
        self.teacher = without_drop_path(frozen_copy(self.student))
        self.average = MovingAverage(self.teacher, student=self.student)
        self.register_buffer("center", torch.zeros(1, config.prototypes))
        self.metrics: dict[str, Tensor] = {}
        self.compiled = (
            "student.features",
            "student.head.forward",
            "teacher.features",
            "teacher.head.forward",
        )
        self.momentum, self.temperature, self.frozen = config.momentum, 0.0, False
        self.before_step(epoch=0.0, epochs=1)

    @property
    def backbone(self) -> nn.Module:
        """The network that is kept after training: the teacher's."""
        return self.teacher.backbone

    def before_step(self, *, epoch: float, epochs: int) -> None:
        """Set the teacher's momentum and temperature, and whether prototypes stay."""
        config = self.config
        self.momentum = momentum_at(epoch / epochs, start=config.momentum)
        self.temperature = teacher_temperature(
            int(epoch), first=config.teacher_temperature_start, last=config.teacher_temperature,
            warmup_epochs=config.teacher_warmup_epochs,
        )  # fmt: skip
        self.frozen = epoch < config.freeze_last_layer_epochs

    def forward(self, views: Sequence[UInt8[Tensor, "b c _ _"]]) -> Float[Tensor, ""]:
        """Return the loss of all crops of the same places, and move the centre.

        Args:
            views: Crops; the first two are the large ones.
        """
        large, small = torch.cat([*views[:NUM_GLOBAL]]), views[NUM_GLOBAL:]
        with torch.no_grad():
            features = self.teacher.features(large)
            answers = self.teacher.head(features)  # (2 * B, K)
        seen = [self.student.features(large)]
        seen += [self.student.features(torch.cat([*small]))] if small else []
        scores = self.student.head(torch.cat(seen))  # (V * B, K)
        loss, targets = self.loss(scores, answers)
        self.metrics = {"spread": spread(seen[0]), "teacher_entropy": entropy(targets)}
        self.recentre(answers)
        return loss

    def loss(
        self, scores: Float[Tensor, "vb k"], answers: Float[Tensor, "gb k"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "gb k"]]:
        """Return the mean cross-entropy over pairs of different crops, and the targets.

        Args:
            scores: The student's, all samples of the first crop, then of the second, ….
            answers: The teacher's of the two large crops.
        """
        with torch.autocast(scores.device.type, enabled=False):
            targets = ((answers - self.center) / self.temperature).softmax(dim=1)
            q = targets.unflatten(0, (NUM_GLOBAL, -1))  # (2, B, K)
            p = (scores / self.config.student_temperature).log_softmax(dim=1)
            p = p.unflatten(0, (-1, q.shape[1]))  # (V, B, K)
            others = p.sum(dim=0) - p[:NUM_GLOBAL]  # (2, B, K): all crops but the target's own
            pairs = NUM_GLOBAL * (len(p) - 1)
            return -(q * others).sum(dim=2).mean(dim=1).sum() / pairs, targets

    @torch.no_grad()
    def recentre(self, answers: Float[Tensor, "gb k"]) -> None:
        """Move the centre towards the mean answer of all ranks."""
        mean = distributed.mean(answers.mean(dim=0, keepdim=True))
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.config.center_momentum)

    def before_update(self) -> None:
        """Drop the prototypes' gradients while they are to stay: no decay, no step."""
        if self.frozen:
            for parameter in self.student.head.last_layer.parameters():
                parameter.grad = None

    def after_step(self) -> None:
        """Move the teacher."""
        self.average.move(momentum=self.momentum)


def class_tokens(vit: VisionTransformer, images: Float[Tensor, "n c h w"]) -> Tensor:
    """Return a ViT's class token (N, F) for images of any whole number of patches."""
    assert vit.cls_token is not None
    assert vit.pos_embed is not None
    patches = vit.patch_embed.proj(images)  # (N, F, H / P, W / P)
    positions = resized_positions(vit.pos_embed, rows=patches.shape[2], columns=patches.shape[3])
    tokens = patches.flatten(2).mT  # (N, L, F)
    tokens = torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + positions
    return vit.norm(vit.blocks(tokens))[:, 0]


def resized_positions(
    table: Float[Tensor, "1 tokens f"], *, rows: int, columns: int
) -> Float[Tensor, "1 resized f"]:
    """Return a position table for another grid, bicubic, as DINO's code resizes it.

    That passes the scale (n + 0.1) / N on as such, which samples elsewhere than a size would.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if rows == columns == side:
        return table
    grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", recompute_scale_factor=False)
    return torch.cat([table[:, :1], grid.flatten(2).mT], dim=1)


def teacher_temperature(epoch: int, *, first: float, last: float, warmup_epochs: int) -> float:
    """Return an epoch's temperature: `warmup_epochs` values from first to last, then last."""
    if epoch >= warmup_epochs:
        return last
    return first + (last - first) * epoch / max(warmup_epochs - 1, 1)
