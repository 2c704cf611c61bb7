"""timm networks for any number of bands, and how bytes become their input.

A backbone maps images (B, C, H, W) to features (B, D); `num_features` is its D. Methods draw the
transformers' first weights themselves, each as its paper's code does.
"""

from dataclasses import dataclass
from typing import Literal

import timm
import torch
from jaxtyping import Float, UInt8
from timm.layers.drop import DropPath
from timm.models.beit import Beit
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

__all__ = ["Beit", "Block", "DropPath", "VisionTransformer"]

BackboneName = Literal[
    "resnet18", "resnet50", "vit_tiny_patch16", "vit_small_patch16", "vit_base_patch16",
    "vit_large_patch16", "vit_huge_patch14",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TransformerSize:
    """What a vision transformer's name stands for."""

    patch: int
    """Side of a patch in pixels."""
    dim: int
    """Width of a token."""
    depth: int
    """Blocks."""
    heads: int
    """Attention heads; MoCo-v3's own ViT-S has 12, all others 6 (as SSL4EO-S12's)."""


TRANSFORMERS: dict[str, TransformerSize] = {
    "vit_tiny_patch16": TransformerSize(patch=16, dim=192, depth=12, heads=3),
    "vit_small_patch16": TransformerSize(patch=16, dim=384, depth=12, heads=6),
    "vit_base_patch16": TransformerSize(patch=16, dim=768, depth=12, heads=12),
    "vit_large_patch16": TransformerSize(patch=16, dim=1024, depth=24, heads=16),
    "vit_huge_patch14": TransformerSize(patch=14, dim=1280, depth=32, heads=16),
}


def resnet(name: BackboneName, *, in_channels: int) -> nn.Module:
    """Return a freshly initialized ResNet without a classifier.

    The initialization is the published runs': He normal (fan out) for every convolution but the
    first, which keeps PyTorch's default because it was exchanged for one of 13 bands afterwards;
    no batch norm starts at zero.

    Args:
        name: timm's name of the network.
        in_channels: Bands of the input.

    Raises:
        ValueError: The name is a transformer's.
    """
    if name in TRANSFORMERS:
        raise ValueError(f"--backbone {name} is no ResNet; this recipe takes resnet18, resnet50.")
    network = timm.create_model(name, in_chans=in_channels, num_classes=0, zero_init_last=False)
    first = network.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    first.reset_parameters()
    return network


def transformer_size(name: BackboneName, *, image_pixels: int) -> TransformerSize:
    """Return a transformer's size by its name.

    Raises:
        ValueError: The name is a ResNet's, or images are no whole number of patches.
    """
    if name not in TRANSFORMERS:
        raise ValueError(
            f"--backbone {name} is no vision transformer; this recipe takes "
            f"{', '.join(TRANSFORMERS)}."
        )
    size = TRANSFORMERS[name]
    if image_pixels % size.patch:
        nearest = max(1, round(image_pixels / size.patch)) * size.patch
        raise ValueError(
            f"--views.size {image_pixels} is no multiple of the {size.patch} pixels of a patch of "
            f"{name}. The nearest that is is --views.size {nearest}."
        )
    return size


def vision_transformer(
    size: TransformerSize, *, in_channels: int, image_pixels: int, drop_path: float = 0.0
) -> VisionTransformer:
    """Return a ViT (Dosovitskiy et al. 2021) without classifier, its features the class token.

    Args:
        size: Patch, width, depth and heads.
        in_channels: Bands of the input.
        image_pixels: Side of the images that its position table is for.
        drop_path: Chance that the last block is left out for a sample; less for those before it.
    """
    return VisionTransformer(
        img_size=image_pixels, patch_size=size.patch, in_chans=in_channels, num_classes=0,
        embed_dim=size.dim, depth=size.depth, num_heads=size.heads, drop_path_rate=drop_path,
    )  # fmt: skip


def beit(
    size: TransformerSize,
    *,
    in_channels: int,
    image_pixels: int,
    layer_scale: float,
    drop_path: float = 0.0,
    attention_dropout: float = 0.0,
) -> Beit:
    """Return a BEiT (Bao et al. 2022): no position table, one relative bias for all blocks.

    Args:
        size: Patch, width, depth and heads.
        in_channels: Bands of the input.
        image_pixels: Side of the images.
        layer_scale: What every residual branch is first multiplied by.
        drop_path: As of `vision_transformer`.
        attention_dropout: Chance that an attention weight is dropped.
    """
    return Beit(
        img_size=image_pixels, patch_size=size.patch, in_chans=in_channels, num_classes=0,
        global_pool="token", embed_dim=size.dim, depth=size.depth, num_heads=size.heads,
        drop_path_rate=drop_path, attn_drop_rate=attention_dropout, init_values=layer_scale,
        use_abs_pos_emb=False, use_shared_rel_pos_bias=True, use_fc_norm=False,
    )  # fmt: skip


def to_input(images: UInt8[Tensor, "b c h w"], *, dtype: torch.dtype) -> Float[Tensor, "b c h w"]:
    """Return bytes 0-255 as numbers 0-1 in channels-last memory, as all published weights expect.

    No mean or deviation is taken off.
    """
    return images.to(dtype, memory_format=torch.channels_last).div_(255)
