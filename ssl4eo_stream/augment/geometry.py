"""Crop boxes that show the same ground in every band, and resampling from native size.

The bands of a patch lie on grids of different resolution. A box is drawn in *cells*, the largest
squares that every grid divides evenly: 60 m with a 44 x 44 band in use, 20 m with 132 x 132 bands,
10 m otherwise. Its edges are then whole pixels of every grid, so plain slices show exactly the same
ground, and each band is resampled once, from its native size to the view's.

All arrays are uint8 and two-dimensional, one per band: H x W with rows from north to south.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

Interpolation = Literal["bilinear", "bicubic"]

FLAGS: dict[Interpolation, int] = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
"""OpenCV's names. Both put pixel centres at half integers and neither smooths before shrinking, as
the released code (cv2 through `cvtorchvision`)."""

CROP_TRIES = 10
"""Shapes tried before falling back on the whole patch; the released code and torchvision."""
BOX_UNIFORMS = 3 * CROP_TRIES + 2
"""Random numbers that `draw_box` takes: area, aspect and swap per try, then top and left."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of ground inside a square patch, in whole cells."""

    top: int
    """First row of cells."""
    left: int
    """First column of cells."""
    height: int
    """Rows of cells, at least 1."""
    width: int
    """Columns of cells, at least 1."""
    cells: int
    """Cells along the patch's side."""

    def slices(self, pixels: int) -> tuple[slice, slice]:
        """Return the rows and columns of the box in a grid of `pixels` x `pixels`.

        `pixels` is a multiple of `cells`.
        """
        step = pixels // self.cells
        return (
            slice(self.top * step, (self.top + self.height) * step),
            slice(self.left * step, (self.left + self.width) * step),
        )


def common_cells(sides: Iterable[int]) -> int:
    """Return how many cells a patch's side has, for grids of these sides in pixels.

    It is their greatest common divisor: 44 for (264, 132, 44), 132 for (264, 132), 264 for (264,).
    """
    return math.gcd(*sides)


def draw_box(
    uniforms: Sequence[float],
    *,
    cells: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> Box:
    """Return the box of a RandomResizedCrop, snapped to cells.

    As the released code draws it: area U(`area`), aspect U(`aspect`) and then width and height
    swapped with probability 0.5, ten tries, else the whole patch. (torchvision draws the aspect
    log-uniformly. Over 3/4-4/3 the two distributions differ by 0.4 percentage points at most.)
    Each side is rounded to whole cells, at least one; the place is uniform over those that fit.

    Args:
        uniforms: `BOX_UNIFORMS` numbers in [0, 1). All belong to this box, used or not.
        cells: Cells along the patch's side.
        area: Least and greatest share of the patch's area, in (0, 1].
        aspect: Least and greatest ratio of width to height before the swap.
    """
    for i in range(CROP_TRIES):
        u_area, u_aspect, u_swap = uniforms[3 * i : 3 * i + 3]
        share = area[0] + u_area * (area[1] - area[0])
        ratio = aspect[0] + u_aspect * (aspect[1] - aspect[0])
        if u_swap < 0.5:
            ratio = 1 / ratio
        width = max(1, round(cells * math.sqrt(share * ratio)))
        height = max(1, round(cells * math.sqrt(share / ratio)))
        if width <= cells and height <= cells:
            break
    else:
        width = height = cells
    u_top, u_left = uniforms[3 * CROP_TRIES : BOX_UNIFORMS]
    return Box(
        top=int(u_top * (cells - height + 1)),
        left=int(u_left * (cells - width + 1)),
        height=height,
        width=width,
        cells=cells,
    )


def crop(planes: Sequence[UInt8[np.ndarray, "_ _"]], *, box: Box) -> list[UInt8[np.ndarray, "_ _"]]:
    """Return the box of every plane at its native size: slices of the planes, no copies."""
    slices = {side: box.slices(side) for side in {len(plane) for plane in planes}}
    return [plane[slices[len(plane)]] for plane in planes]


def resize(
    patch: UInt8[np.ndarray, "_ _"],
    *,
    out: UInt8[np.ndarray, "h w"],
    interpolation: Interpolation = "bilinear",
) -> None:
    """Resample a patch to the size of `out` and write it there.

    `out` is C-contiguous; cv2 writes to its memory without a copy.
    """
    height, width = out.shape
    cv2.resize(patch, (width, height), dst=out, interpolation=FLAGS[interpolation])


def resize_bands(
    patches: Sequence[UInt8[np.ndarray, "_ _"]],
    *,
    out: UInt8[np.ndarray, "c h w"],
    flip: bool = False,
    interpolation: Interpolation = "bilinear",
) -> None:
    """Resample every patch to its plane of `out`, mirrored left to right if `flip`.

    Four patches of one shape go through cv2 as the channels of one image, which takes less time
    than two of them alone, because its vector code wants neighbours in memory; three go with the
    last one twice. The mirror comes first, while there are fewer pixels: the two commute.

    Where cv2 has IPP (x86), it resamples bytes with it only if told that other last bits than its
    own are welcome. They are: IPP is faster, and within 0.52 of the exact value where cv2 strays by
    up to 0.78. That setting is this thread's alone, and is put back.

    Args:
        patches: One patch per band, of the same ground.
        out: C-contiguous planes, one per patch; cv2 writes to their memory without a copy.
        flip: Whether to mirror.
        interpolation: How to resample.
    """
    shapes: dict[tuple[int, ...], list[int]] = {}
    for channel, patch in enumerate(patches):
        shapes.setdefault(patch.shape, []).append(channel)
    before = cv2.ipp.useIPP_NotExact()
    cv2.ipp.setUseIPP_NotExact(True)
    try:
        for channels in shapes.values():
            for i in range(0, len(channels), 4):
                group = channels[i : i + 4]
                bands, planes = [patches[c] for c in group], [out[c] for c in group]
                if len(group) > 2:
                    _resize_together(bands, planes=planes, flip=flip, flag=FLAGS[interpolation])
                    continue
                for band, plane in zip(bands, planes, strict=True):
                    source = np.asarray(cv2.flip(band, 1)) if flip else band
                    resize(source, out=plane, interpolation=interpolation)
    finally:
        cv2.ipp.setUseIPP_NotExact(before)


def _resize_together(
    patches: list[UInt8[np.ndarray, "_ _"]],
    *,
    planes: list[UInt8[np.ndarray, "h w"]],
    flip: bool,
    flag: int,
) -> None:
    """Resample three or four patches of one shape."""
    missing = 4 - len(patches)
    height, width = patches[0].shape
    # One byte off, because cv2.merge writes the rows of an aligned image past the cache, which
    # takes seven times as long.
    image = np.empty(4 * height * width + 1, np.uint8)[1:].reshape(height, width, 4)
    cv2.merge([*patches, *patches[-1:] * missing], dst=image)
    if flip:
        image = cv2.flip(image, 1)
    height, width = planes[0].shape
    image = cv2.resize(image, (width, height), interpolation=flag)
    cv2.split(image, [*planes, *(np.empty_like(planes[0]) for _ in range(missing))])
