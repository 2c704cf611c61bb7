"""Bytes of one member -> one uint8 plane per channel, each at its native size."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.strips import decode_sample, read_pages

Planes = list[UInt8[np.ndarray, "_ _"]]
Decode = Callable[..., Planes]


class Decoder:
    """Decodes the members of one data set. Shards that keep raw values are quantized on the way."""

    def __init__(self, manifest: Manifest) -> None:
        product = PRODUCTS[manifest.product]
        places = {
            band: (page, sample)
            for page, bands in enumerate(manifest.pages)
            for sample, band in enumerate(bands)
        }
        self._channels = [(*places[name], band) for name, band in
                          zip(manifest.bands, product.bands, strict=True)]  # fmt: skip
        self._raw = manifest.dtype != "uint8"

    def __call__(self, data: bytes, *, name: str) -> Planes:
        """Decode a member.

        Args:
            data: The member's bytes.
            name: What to call it in errors.

        Returns:
            One C-contiguous uint8 array (H, W) per channel, in the product's band order.

        Raises:
            ShardError: The bytes are not such a member.
        """
        pages = read_pages(data, name=name, georeference=False)
        planes: list[Any] = [
            decode_sample(data, pages[page], sample, name=name)
            for page, sample, _ in self._channels
        ]
        if self._raw:
            return [
                to_bytes(plane, band=band)
                for plane, (_, _, band) in zip(planes, self._channels, strict=True)
            ]
        return planes
