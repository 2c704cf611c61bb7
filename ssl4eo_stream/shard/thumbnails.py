"""Decoded bands of one location -> a small picture of each date, in false colour."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, Num

from ssl4eo_stream.shard.manifest import Manifest

Patch = dict[str, Num[np.ndarray, "_ _"]]

COLOURS = {"s1": "VV, VH, VV − VH", "s2a": "B8, B4, B3", "s2c": "B8, B4, B3"}
"""What red, green and blue show: plants are red, water is dark, towns are grey; for Sentinel-1
differences in dB are ratios of what came back."""
MEDIA_TYPE, QUALITY = "image/webp", 80
PERCENTILES = (2, 98)
"""Of each date: what becomes black, and white. The median over the dates, of two the lower, goes
for all of them: so dates compare, and a cloudy one doesn't dim the others."""


def thumbnails(dates: Sequence[Patch], manifest: Manifest) -> list[bytes]:
    """Draw the dates of a location, all stretched alike.

    Args:
        dates: Bands of each date by name, as stored, at native size.
        manifest: The data set's.

    Returns:
        A WebP file for each date, 264 × 264.
    """
    if not dates:
        return []
    pictures = np.stack([_composite(patch, manifest) for patch in dates])  # (D, H, W, 3)
    ends = np.percentile(pictures, PERCENTILES, axis=(1, 2))  # (2, D, 3)
    low, high = np.percentile(ends, 50, axis=1, method="lower")
    shades = (pictures - low) / np.maximum(high - low, 1e-6) * 255
    return [_webp(shade) for shade in np.clip(shades, 0, 255).astype(np.uint8)]


def _composite(patch: Patch, manifest: Manifest) -> Float32[np.ndarray, "h w 3"]:
    """Red, green and blue in the bands' unit."""

    def values(name: str) -> Float32[np.ndarray, "h w"]:
        c = manifest.bands.index(name)
        return patch[name].astype(np.float32) * np.float32(manifest.scale[c]) + np.float32(
            manifest.offset[c]
        )

    if manifest.product == "s1":
        vv, vh = values("VV"), values("VH")
        return np.stack([vv, vh, vv - vh], axis=-1)
    return np.stack([values(name) for name in COLOURS[manifest.product].split(", ")], axis=-1)


def _webp(picture: np.ndarray) -> bytes:
    done, data = cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert done, "OpenCV writes WebP of 8-bit pictures"
    return data.tobytes()
