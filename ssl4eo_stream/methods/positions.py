"""Fixed two-dimensional position tables of vision transformers (sine and cosine).

Row 0 is the class token's and zero. Token (row r, column c) of a G x G grid stands at 1 + r G + c.
"""

from typing import Literal

import torch
from jaxtyping import Float32
from torch import Tensor


def sincos_table(
    dim: int, *, grid: int, first: Literal["row", "column"]
) -> Float32[Tensor, "1 tokens d"]:
    """Return [sin(a w), cos(a w), sin(b w), cos(b w)] with w_k = 10000^(-4 k / D), k < D / 4.

    Args:
        dim: D, a multiple of 4.
        grid: G.
        first: What a is, b being the other: `row` in MoCo-v3's code, `column` in MAE's.

    Raises:
        ValueError: D is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"tokens of {dim} numbers have no sin-cos table; take a multiple of 4.")
    waves = 10_000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    places = torch.arange(grid, dtype=torch.float64)
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    a, b = (rows, columns) if first == "row" else (columns, rows)
    parts = [f(each.flatten()[:, None] * waves) for each in (a, b) for f in (torch.sin, torch.cos)]
    table = torch.cat(parts, dim=1)  # (G * G, D)
    return torch.cat([table.new_zeros(1, dim), table])[None].float()
