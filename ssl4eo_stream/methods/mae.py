"""Masked autoencoders (He et al. 2022, arXiv:2111.06377): paint what was taken away.

Shapes: B samples, C channels, L patches of P x P pixels, K kept ones, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from ssl4eo_stream.backbones import Block, VisionTransformer, to_input
from ssl4eo_stream.methods.collapse import spread
from ssl4eo_stream.methods.positions import sincos_table


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """What defines a run; the defaults are SSL4EO-S12's (released `pretrain_mae_s2c.py`)."""

    mask: float = 0.7
    """Share of the patches that is taken away: of 196, 58 are kept."""
    decoder_dim: int = 512
    """Width of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    normalize_pixels: bool = True
    """Whether a patch's values, over all bands together, are brought to mean 0 and variance 1."""

    def __post_init__(self) -> None:
        if not 0 < self.mask < 1:
            raise ValueError(f"--method.mask is {self.mask}; it must be above 0 and below 1.")
        for name in ("decoder_dim", "decoder_depth", "decoder_heads"):
            if (value := getattr(self, name)) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--method.{flag} is {value}; it must be at least 1.")
        if self.decoder_dim % self.decoder_heads or self.decoder_dim % 4:
            raise ValueError(
                f"--method.decoder-dim {self.decoder_dim} must be a multiple of 4 and of "
                f"--method.decoder-heads {self.decoder_heads}."
            )


class MAE(nn.Module):
    """A ViT that sees the patches that were left, and a decoder that paints the others.

    Args:
        backbone: A ViT; its weights are drawn anew, as MAE's code does.
        config: What defines the run.
        in_channels: C.
    """

    def __init__(self, backbone: VisionTransformer, config: MAEConfig, *, in_channels: int) -> None:
        super().__init__()
        self.config, self.encoder = config, backbone
        self.patch, grid = backbone.patch_embed.patch_size[0], backbone.patch_embed.grid_size[0]
        dim = config.decoder_dim
        self.decoder_embed = nn.Linear(backbone.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        table = sincos_table(dim, grid=grid, first="column")
        self.decoder_pos_embed = nn.Parameter(table, requires_grad=False)
        self.decoder_blocks = nn.Sequential(
            *(
                Block(dim, config.decoder_heads, qkv_bias=True, norm_layer=Norm)
                for _ in range(config.decoder_depth)
            )
        )
        self.decoder_norm = Norm(dim)
        self.decoder_pred = nn.Linear(dim, self.patch**2 * in_channels)
        self.metrics: dict[str, Tensor] = {}
        self.compiled = ("encode", "decode")
        self._initialize(grid)

    @torch.no_grad()
    def _initialize(self, grid: int) -> None:
        """Draw weights as MAE's code does; the patch embedding's bias keeps PyTorch's default."""
        vit = self.encoder
        assert vit.cls_token is not None
        assert vit.pos_embed is not None
        vit.pos_embed.copy_(sincos_table(vit.embed_dim, grid=grid, first="column"))
        vit.pos_embed.requires_grad_(False)
        embedding = vit.patch_embed.proj
        nn.init.xavier_uniform_(embedding.weight.flatten(1))
        nn.init.normal_(vit.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    @property
    def backbone(self) -> nn.Module:
        """The network that is kept after training."""
        return self.encoder

    def before_step(self, *, epoch: float, epochs: int) -> None:
        """Do nothing: all steps are alike."""

    def forward(self, views: Sequence[UInt8[Tensor, "b c h w"]]) -> Float[Tensor, ""]:
        """Return the loss of one view of places."""
        (images,) = views
        pixels = to_input(images, dtype=self.mask_token.dtype)
        patches = patchify(pixels, patch=self.patch)  # (B, L, P * P * C)
        kept, restore, mask = random_mask(self.noise(patches), share=self.config.mask)
        latent = self.encode(patches, kept)  # (B, 1 + K, D)
        painted = self.decode(latent, restore)  # (B, L, P * P * C)
        self.metrics = {"spread": spread(latent[:, 0])}
        return masked_error(painted, patches, mask, normalize=self.config.normalize_pixels)

    def noise(self, patches: Float[Tensor, "b l v"]) -> Float[Tensor, "b l"]:
        """Return the random numbers whose smallest are kept."""
        return torch.rand(patches.shape[:2], device=patches.device)

    def encode(
        self, patches: Float[Tensor, "b l v"], kept: Int64[Tensor, "b k"]
    ) -> Float[Tensor, "b one_plus_k d"]:
        """Return the tokens of the class and of the kept patches; the others are never embedded."""
        vit = self.encoder
        assert vit.cls_token is not None
        assert vit.pos_embed is not None
        embedding = vit.patch_embed.proj
        weight = embedding.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P * P * C), as patches
        positions = vit.pos_embed[:, 1:].expand(len(patches), -1, -1)
        tokens = F.linear(rows(patches, kept), weight, embedding.bias) + rows(positions, kept)
        first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        return vit.norm(vit.blocks(torch.cat([first, tokens], dim=1)))

    def decode(
        self, latent: Float[Tensor, "b one_plus_k d"], restore: Int64[Tensor, "b l"]
    ) -> Float[Tensor, "b l v"]:
        """Return the pixels of all patches."""
        tokens = self.decoder_embed(latent)
        missing = restore.shape[1] + 1 - tokens.shape[1]
        blank = self.mask_token.to(tokens.dtype).expand(len(tokens), missing, -1)
        whole = rows(torch.cat([tokens[:, 1:], blank], dim=1), restore)
        whole = torch.cat([tokens[:, :1], whole], dim=1) + self.decoder_pos_embed
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(whole)))[:, 1:]

    @torch.no_grad()
    def pictures(self, views: Sequence[UInt8[Tensor, "b c h w"]]) -> dict[str, Tensor]:
        """Return what is left and what becomes of it, (B, C, H, W) 0-1; always the same mask."""
        (images,) = views
        patches = patchify(to_input(images, dtype=self.mask_token.dtype), patch=self.patch)
        noise = torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(0))
        kept, restore, mask = random_mask(noise.to(patches.device), share=self.config.mask)
        # the class's own functions: compiled ones would be compiled again for so few images
        painted = MAE.decode(self, MAE.encode(self, patches, kept), restore)
        if self.config.normalize_pixels:
            variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
            painted = painted * (variance + 1e-6).sqrt() + mean
        mask = mask[:, :, None]
        left, whole = patches * (1 - mask), torch.where(mask > 0, painted, patches)
        return {
            "left": unpatchify(left, patch=self.patch),
            "reconstructed": unpatchify(whole, patch=self.patch),
        }

    def before_update(self) -> None:
        """Leave the gradients as they are."""

    def after_step(self) -> None:
        """Do nothing: there is no teacher."""


class Norm(nn.LayerNorm):
    """Layer norm with the epsilon of all vision transformers here."""

    def __init__(self, dim: int, **options: object) -> None:
        super().__init__(dim, **{"eps": 1e-6, **options})  # type: ignore[arg-type]


def rows(values: Float[Tensor, "b l v"], at: Int64[Tensor, "b k"]) -> Float[Tensor, "b k v"]:
    """Return each sample's own choice of rows."""
    return values.gather(1, at[:, :, None].expand(-1, -1, values.shape[2]))


def patchify(images: Float[Tensor, "b c h w"], *, patch: int) -> Float[Tensor, "b l v"]:
    """Return patches row by row, each as (pixel row, pixel column, channel)."""
    grid = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, r, P, c, P)
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Float[Tensor, "b l v"], *, patch: int) -> Float[Tensor, "b c h w"]:
    """Return square images of `patchify`'s patches."""
    side = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(1, (side, side)).unflatten(3, (patch, patch, -1))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def random_mask(
    noise: Float[Tensor, "b l"], *, share: float
) -> tuple[Int64[Tensor, "b k"], Int64[Tensor, "b l"], Float[Tensor, "b l"]]:
    """Return which patches are kept, how to undo the shuffle, and a mask that is 1 where not kept.

    Args:
        noise: The int(L (1 - share)) patches with the smallest are kept, in its order.
        share: Share of the patches to take away.
    """
    order = noise.argsort(dim=1)
    restore = order.argsort(dim=1)
    num_kept = int(noise.shape[1] * (1 - share))
    return order[:, :num_kept], restore, (restore >= num_kept).to(noise.dtype)


def masked_error(
    painted: Float[Tensor, "b l v"],
    patches: Float[Tensor, "b l v"],
    mask: Float[Tensor, "b l"],
    *,
    normalize: bool,
) -> Float[Tensor, ""]:
    """Return the mean squared error over the patches where the mask is 1.

    Args:
        painted: What the decoder says.
        patches: What is there.
        mask: Which patches count.
        normalize: Whether patches are brought to mean 0 and (unbiased) variance 1 before.
    """
    with torch.autocast(painted.device.type, enabled=False):
        if normalize:
            variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
            patches = (patches - mean) * (variance + 1e-6).rsqrt()
        errors = (painted.to(patches.dtype) - patches).square().mean(dim=2)
        mask = mask.to(errors.dtype)
        return (errors * mask).sum() / mask.sum()
