"""Digital numbers and dB <-> the bytes that shards hold.

    byte = clip(rint((value - offset) / scale), 0, 255)        value = byte * scale + offset

Sentinel-2: reflectance 0-1 (DN 0-10,000) on 0-255. In integers, byte = min(255, (51 * DN + 999) //
2000): the nearest, and the five ties (DN 1000, 3000, …, 9000) downwards. The published inputs
truncate instead, and wrap around above DN 10,000, which turns bright clouds and snow dark.
Sentinel-1: mean ± 2 standard deviations in dB on 0-255, as published.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Num, UInt8

from ssl4eo_stream.bands import Band


def to_bytes(values: Num[np.ndarray, "*shape"], *, band: Band) -> UInt8[np.ndarray, "*shape"]:
    """Turn pixels into bytes: clipped, never wrapped.

    Args:
        values: Finite pixels in the band's unit; uint16 DN goes through a table.
        band: Whose scale and offset to use.

    Returns:
        Bytes of the same shape.
    """
    if values.dtype == np.uint16:
        return np.take(_table(band.scale, band.offset), values)  # half the time of indexing
    return _quantize(values, scale=band.scale, offset=band.offset)


def from_bytes(stored: UInt8[np.ndarray, "*shape"], *, band: Band) -> Float[np.ndarray, "*shape"]:
    """Turn bytes back into the band's unit, float32; within scale / 2 of what was not clipped."""
    return (stored * np.float64(band.scale) + band.offset).astype(np.float32)


def _quantize(
    values: Num[np.ndarray, "*shape"], *, scale: float, offset: float
) -> UInt8[np.ndarray, "*shape"]:
    steps = (values.astype(np.float64) - offset) / scale
    return np.clip(np.rint(steps), 0, 255).astype(np.uint8)


@lru_cache(maxsize=32)
def _table(scale: float, offset: float) -> UInt8[np.ndarray, " n"]:
    return _quantize(np.arange(1 << 16, dtype=np.uint16), scale=scale, offset=offset)
