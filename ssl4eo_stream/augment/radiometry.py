"""Brightness, contrast, grayscale and blur on uint8, saturating, for any number of bands.

The released code computes these in float and casts to uint8 without clipping, so bright pixels wrap
to dark ones; here values stop at 0 and 255. Arrays are one band of H x W bytes unless stated.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.augment.geometry import FLAGS, Interpolation

BLUR_REACH = 3.0
"""Half width of the blur's kernel in standard deviations; cv2.GaussianBlur's own choice for uint8,
and so the released code's."""
NO_BLUR = 0.25
"""Standard deviation in pixels below which no byte changes. A pixel's four neighbours weigh
exp(-1 / 2 sigma²) = 0.00034 of it each, diagonal ones nothing, so it moves by 4 x 0.00034 x 255 =
0.34 at most."""


def adjust(
    patch: UInt8[np.ndarray, "h w"], *, brightness: float, contrast: float
) -> UInt8[np.ndarray, "h w"]:
    """Return the patch with its brightness and contrast changed.

    y = (b x - b m) c + b m with the factors b and c and the patch's mean m: brightness first, then
    contrast about the mean, in one step, rounded to nearest and held in 0-255 once, at the end.

    cv2.addWeighted saturates; cv2.convertScaleAbs is a little faster but takes the absolute value,
    which turns the darkest pixels bright where the offset is negative. Bytes are not negative, so
    their L1 norm is their sum; cv2 computes it in a sixth of cv2.mean's time.
    """
    gain = brightness * contrast
    offset = brightness * (1 - contrast) * cv2.norm(patch, cv2.NORM_L1) / patch.size
    return cv2.addWeighted(patch, gain, patch, 0.0, offset)  # pyright: ignore[reportReturnType]


def gray(
    patches: Sequence[UInt8[np.ndarray, "_ _"]],
    *,
    out: UInt8[np.ndarray, "h w"],
    interpolation: Interpolation = "bilinear",
) -> None:
    """Write the mean over all bands, resampled to the size of `out`, into `out`.

    Every band weighs the same, as in the released code. Bands of one native size are added before
    they are resampled: resampling is linear, and three resizes replace thirteen.

    Args:
        patches: One patch per band at its native size, all of the same ground.
        out: C-contiguous plane of H x W.
        interpolation: How to resample.
    """
    height, width = out.shape
    sums: dict[tuple[int, ...], np.ndarray] = {}
    for patch in patches:
        if patch.shape not in sums:
            sums[patch.shape] = np.zeros(patch.shape, np.float32)
        cv2.accumulate(patch, sums[patch.shape])
    flag = FLAGS[interpolation]
    total, *others = (
        cv2.resize(each, (width, height), interpolation=flag) for each in sums.values()
    )
    for other in others:
        cv2.add(total, other, dst=total)
    if interpolation == "bicubic":
        np.maximum(total, 0, out=total)  # it overshoots; convertScaleAbs would turn that around
    cv2.convertScaleAbs(total, alpha=1 / len(patches), dst=out)


def blur(planes: UInt8[np.ndarray, "c h w"], *, sigma: float) -> None:
    """Blur every band in place with a Gaussian of `sigma` pixels, mirrored at the borders.

    Same kernel as cv2.GaussianBlur(ksize=0), but through cv2.sepFilter2D, which computes in float:
    about three times as fast (benchmarks/views.py), and within 0.51 of the exact value where
    GaussianBlur's 8-bit coefficients stray by up to 1.6.
    """
    if sigma < NO_BLUR:
        return
    size = round(2 * BLUR_REACH * sigma + 1) | 1
    kernel = cv2.getGaussianKernel(size, sigma)
    for plane in planes:
        cv2.sepFilter2D(plane, -1, kernel, kernel, dst=plane)


def solarize(planes: UInt8[np.ndarray, "c h w"]) -> None:
    """Invert every value x of at least 128 in place: 255 - x, then the smaller of the two."""
    for plane in planes:
        cv2.min(plane, cv2.bitwise_not(plane), dst=plane)
