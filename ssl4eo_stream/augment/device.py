"""Views rendered on a GPU, a batch at a time, from what `NativeViews` hands over.

Crop, mirror, resampling and blur are linear and separable, so that one matrix per sample and axis
does them all: view = R X Cᵀ for every band X of the sample, with R and C built on the device from
the view's parameters. Matrix products are what a GPU does best: thirteen bands of a patch take
0.4 GFLOP a view. Nothing is drawn here, nothing waits for the device, and shapes do not depend on
the parameters, so `torch.compile` may fuse what lies between the products.

Shapes: B samples of N bands of one native grid of S x S pixels, C channels in all, views of H x W.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from ssl4eo_stream.augment.native import NativeGrid, NativeViews
from ssl4eo_stream.augment.radiometry import BLUR_REACH

SUM_SCALE = 1 / 512
"""Keeps sums over a row of bytes within half precision's range; a power of two rounds nothing."""
LEAST_SIGMA = 1e-3
"""In place of 0, for no blur: all other weights of the kernel vanish."""


class DeviceViews(nn.Module):
    """Renders the views that `NativeViews` handed over, as `MoCoViews` would on the CPU.

    The same crop, mirror, resampling, brightness, contrast, grayscale and solarize. The CPU path
    rounds to bytes once more, between resampling and blur.

    Args:
        native: What the loader was given.
        dtype: Number type of the products; float16 on a GPU and float32 elsewhere if not given.
            bfloat16 is too coarse.
        chunk_samples: Samples rendered at a time; each takes some 4 MB of scratch for 13 bands.

    Raises:
        ValueError: `chunk_samples` is less than 1, or `dtype` is another type.
    """

    def __init__(
        self, native: NativeViews, *, dtype: torch.dtype | None = None, chunk_samples: int = 128
    ) -> None:
        super().__init__()
        if chunk_samples < 1:
            raise ValueError(f"chunk_samples={chunk_samples} must be at least 1. Give 128.")
        if dtype not in (None, torch.float16, torch.float32, torch.float64):
            raise ValueError(f"dtype={dtype} must be torch.float16, float32 or float64, or None.")
        self.native, self.dtype, self.chunk_samples = native, dtype, chunk_samples

    def forward(self, rows: Sequence[UInt8[Tensor, "b 1 1 bytes"]]) -> list[UInt8[Tensor, "..."]]:
        """Return the views, uint8 (B, C, H, W) each, on the device of the rows.

        Runs on the current stream and returns before the device has finished.

        Args:
            rows: What the loader yields, `batch.views`, on any device.
        """
        shapes = self.native.views.shapes(len(self.native.sides))
        views = []
        for row, shape, view in zip(rows, shapes, self.native.views.each, strict=True):
            out = row.new_empty(len(row), *shape)
            # Training may have autocast on, which would make the products bfloat16.
            with torch.no_grad(), torch.autocast(row.device.type, enabled=False):
                pieces = zip(
                    row.flatten(1).split(self.chunk_samples),
                    out.split(self.chunk_samples),
                    strict=True,
                )
                for piece, target in pieces:
                    self._render(piece, out=target, cubic=view.interpolation == "bicubic")
            views.append(out)
        return views

    def _render(
        self, rows: UInt8[Tensor, "b bytes"], *, out: UInt8[Tensor, "b c h w"], cubic: bool
    ) -> None:
        dtype = self.dtype or (torch.float16 if rows.is_cuda else torch.float32)
        _, channels, height, width = out.shape
        # A copy, because bytes inside a row need not lie where numbers may.
        numbers = rows[:, self.native.record].clone().view(torch.float32)
        top, left, rise, run, flip, brightness, contrast, gray, sigma, solar = numbers.unbind(1)
        blur_rows = blur_matrix(sigma, size=height, dtype=dtype)
        blur_columns = blur_rows if width == height else blur_matrix(sigma, size=width, dtype=dtype)
        total = torch.zeros(len(rows), height, width, device=rows.device)
        for grid in self.native.grids:
            step = grid.side // self.native.cells
            vertical, horizontal = (top * step, rise * step), (left * step, run * step)
            planes = adjust(
                planes_of(rows, grid=grid, dtype=dtype),
                brightness=brightness,
                contrast=contrast,
                rows=vertical,
                columns=horizontal,
            )  # (B, S, N, S)
            matrix = resize_matrix(*horizontal, side=grid.side, size=width, flip=flip, cubic=cubic)
            by_column = torch.bmm(blur_columns, matrix.to(dtype)).mT  # (B, S, W)
            matrix = resize_matrix(*vertical, side=grid.side, size=height, cubic=cubic)
            by_row = torch.bmm(blur_rows, matrix.to(dtype))  # (B, H, S)
            narrow = torch.bmm(planes.flatten(1, 2), by_column)  # (B, S·N, W)
            view = torch.bmm(by_row, narrow.view(len(rows), grid.side, -1))  # (B, H, N·W)
            view = view.view(len(rows), height, -1, width)
            total += view.sum(2, dtype=torch.float32)
            view.round_().clamp_(0, 255)  # weights rounded to half precision may add up to more
            for channel, band in zip(grid.channels, view.unbind(2), strict=True):
                out[:, channel].copy_(band)
        mean = total.div_(channels).round_().clamp_(0, 255).to(torch.uint8)
        torch.where(gray.bool()[:, None, None, None], mean[:, None], out, out=out)
        torch.where(solar.bool()[:, None, None, None], torch.minimum(out, 255 - out), out, out=out)


def planes_of(
    rows: UInt8[Tensor, "b bytes"], *, grid: NativeGrid, dtype: torch.dtype
) -> Float[Tensor, "b side n side"]:
    """Return one grid's bands as numbers, line by line: all bands' first lines, then the second.

    In that order each of the two products is a single one for all bands of a sample.
    """
    block = rows[:, grid.start : grid.stop]
    planes = block.unflatten(1, (len(grid.channels), grid.side, grid.side))
    return planes.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)


def adjust(
    planes: Float[Tensor, "b side n side"],
    *,
    brightness: Float32[Tensor, " b"],
    contrast: Float32[Tensor, " b"],
    rows: tuple[Float32[Tensor, " b"], Float32[Tensor, " b"]],
    columns: tuple[Float32[Tensor, " b"], Float32[Tensor, " b"]],
) -> Float[Tensor, "b side n side"]:
    """Change brightness and contrast as `radiometry.adjust` does, rounded and held in 0-255.

    The arithmetic is float32 whatever the type of `planes`.

    Args:
        planes: Bytes as numbers, line by line as from `planes_of`.
        brightness: Factor of every sample.
        contrast: Factor on the distance to each band's mean over the crop.
        rows: First row and number of rows of every sample's crop.
        columns: The same of columns.
    """
    side = planes.shape[1]
    across = inside(*columns, side=side).mul_(SUM_SCALE).to(planes.dtype)
    sums = torch.bmm(planes.flatten(1, 2), across[:, :, None])  # (B, S·N, 1)
    lines = sums.view(len(planes), side, -1).float() * inside(*rows, side=side)[:, :, None]
    area = rows[1] * columns[1] * SUM_SCALE
    mean = lines.sum(1) / area[:, None]  # (B, N)
    offset = (brightness * (1 - contrast))[:, None] * mean
    gain = (brightness * contrast)[:, None, None, None]
    adjusted = torch.addcmul(offset[:, None, :, None], planes, gain)  # float32
    return adjusted.round_().clamp_(0, 255).to(planes.dtype)


def inside(
    start: Float32[Tensor, " b"], length: Float32[Tensor, " b"], *, side: int
) -> Float32[Tensor, "b side"]:
    """Return 1 for the pixels of [start, start + length), 0 for the others."""
    pixels = torch.arange(side, device=start.device)
    start, length = start[:, None], length[:, None]
    return ((pixels >= start) & (pixels < start + length)).float()


def resize_matrix(
    start: Float32[Tensor, " b"],
    length: Float32[Tensor, " b"],
    *,
    side: int,
    size: int,
    flip: Float32[Tensor, " b"] | None = None,
    cubic: bool = False,
) -> Float32[Tensor, "b size side"]:
    """Return the weights that take a line of a band to a line of the view.

    Pixel centres lie at half integers, and what lies beyond the crop's outermost centres takes
    their value, as with cv2.INTER_LINEAR and cv2.INTER_CUBIC on the crop alone.

    Args:
        start: First pixel of every sample's crop.
        length: Pixels of the crop.
        side: Pixels of the band's line.
        size: Pixels of the view's line.
        flip: 1 for samples to mirror, else 0.
        cubic: Whether to resample bicubically rather than bilinearly.
    """
    start, length = start[:, None], length[:, None]
    targets = torch.arange(size, device=start.device) + 0.5
    if flip is not None:
        targets = torch.where(flip.bool()[:, None], size - targets, targets)
    centres = start + targets * (length / size) - 0.5
    pixels = torch.arange(side, device=start.device)
    if not cubic:
        centres = torch.minimum(torch.maximum(centres, start), start + length - 1)
        return (pixels - centres[:, :, None]).abs_().neg_().add_(1).clamp_(min=0)
    weights = torch.zeros(len(start), size, side, device=start.device)
    for tap in (-1, 0, 1, 2):
        pixel = centres.floor() + tap
        weight = cubic_weight((centres - pixel).abs())
        pixel = torch.minimum(torch.maximum(pixel, start), start + length - 1)
        weights += weight[:, :, None] * (pixels == pixel[:, :, None])
    return weights


def cubic_weight(distance: Float32[Tensor, "b size"]) -> Float32[Tensor, "b size"]:
    """Return the weight of a pixel 0-2 away in cubic convolution (Keys 1981) with a = -3/4."""
    d, a = distance, -0.75
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, far)


def blur_matrix(
    sigma: Float32[Tensor, " b"], *, size: int, dtype: torch.dtype
) -> Float[Tensor, "b size size"]:
    """Return the weights of a Gaussian blur along a line, mirrored at its ends without the edge.

    The kernel is that of `radiometry.blur`: cut at `BLUR_REACH` deviations, of weight 1. Lines are
    longer than its reach.

    Args:
        sigma: Standard deviation in pixels of every sample; 0 leaves the line as it is.
        size: Pixels of the line.
        dtype: Type of the weights.
    """
    nowhere = 2 * size - 1  # one past the farthest distance of a pixel to a mirrored one
    distance = torch.arange(nowhere + 1, device=sigma.device)
    reach = torch.round(2 * BLUR_REACH * sigma + 1).div(2, rounding_mode="floor")
    kernel = torch.exp(-0.5 * (distance / sigma.clamp(min=LEAST_SIGMA)[:, None]) ** 2)
    kernel = torch.where(distance <= reach[:, None], kernel, 0.0)
    kernel = kernel / (2 * kernel.sum(1, keepdim=True) - kernel[:, :1])
    kernel[:, nowhere] = 0
    kernel = kernel.to(dtype)
    pixels = distance[:size]
    direct = (pixels - pixels[:, None]).abs()
    before = pixels + pixels[:, None]  # to the image of a column before the line
    behind = 2 * (size - 1) - before
    before = torch.where(pixels > 0, before, nowhere)
    behind = torch.where(pixels < size - 1, behind, nowhere)
    return kernel[:, direct] + kernel[:, before] + kernel[:, behind]
