"""Facts about the sensors: products, band order, ground resolution, value range, statistics.

This is the only place that knows the order of bands. Sources of the numbers: the SSL4EO-S12 paper
(Wang et al. 2023, tables XII and XIII) and, for layout and types, the published files themselves.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

PATCH_METRES = 2640
"""Side of every patch on the ground (paper, section III)."""

ProductName = Literal["s1", "s2a", "s2c"]


@dataclass(frozen=True, kw_only=True)
class Band:
    """One band of a product."""

    name: str
    """The file's stem in the published tree, for example `B8A` or `VV`."""
    resolution_metres: int
    """Ground sampling distance of the native grid: 10, 20 or 60."""
    mean: float
    """Mean over the whole data set, in digital numbers (S2) or dB (S1); paper, tables XII, XIII."""
    std: float
    """Standard deviation over the whole data set, same unit and source as `mean`."""
    scale: float
    """One step of the stored byte, in the band's unit: value = byte * scale + offset."""
    offset: float
    """Value that the byte 0 stands for, in the band's unit."""

    @property
    def pixels(self) -> int:
        """Side of the band's native grid in pixels: 264, 132 or 44."""
        return PATCH_METRES // self.resolution_metres


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The bands of one product that share a native resolution; one page of a shard's GeoTIFF."""

    resolution_metres: int
    """Ground sampling distance in metres."""
    channels: tuple[int, ...]
    """Positions of the grid's bands in the product's band order."""

    @property
    def pixels(self) -> int:
        """Side of the grid in pixels."""
        return PATCH_METRES // self.resolution_metres


@dataclass(frozen=True, kw_only=True)
class Product:
    """One of the three products of SSL4EO-S12."""

    name: ProductName
    """Name of its folder in the published tree."""
    title: str
    """What a person calls it."""
    dtype: str
    """NumPy name of the published pixels' type."""
    bands: tuple[Band, ...]
    """Bands in canonical order; channel c of every array of this product is `bands[c]`."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Band names in canonical order."""
        return tuple(band.name for band in self.bands)

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """The native grids, finest first: the pages of a shard's GeoTIFF in their order."""
        resolutions = sorted({band.resolution_metres for band in self.bands})
        return tuple(
            Grid(
                resolution_metres=metres,
                channels=tuple(
                    c for c, band in enumerate(self.bands) if band.resolution_metres == metres
                ),
            )
            for metres in resolutions
        )


S2_RESOLUTION_METRES = {
    "B1": 60, "B2": 10, "B3": 10, "B4": 10, "B5": 20, "B6": 20, "B7": 20,
    "B8": 10, "B8A": 20, "B9": 60, "B10": 60, "B11": 20, "B12": 20,
}  # fmt: skip
S2_BYTE_SCALE = 10_000 / 255
"""Reflectance 0-1 (DN 0-10,000) on bytes 0-255, as the published uint8 inputs, but clipped."""


def _s2(means: dict[str, float], stds: list[float]) -> tuple[Band, ...]:
    return tuple(
        Band(
            name=name,
            resolution_metres=S2_RESOLUTION_METRES[name],
            mean=mean,
            std=std,
            scale=S2_BYTE_SCALE,
            offset=0.0,
        )
        for (name, mean), std in zip(means.items(), stds, strict=True)
    )


def _s1(name: str, mean: float, std: float) -> Band:
    """Bytes 0-255 span mean ± 2 standard deviations in dB, as the published S1 inputs."""
    return Band(
        name=name,
        resolution_metres=10,
        mean=mean,
        std=std,
        scale=4 * std / 255,
        offset=mean - 2 * std,
    )


S2C = Product(
    name="s2c",
    title="Sentinel-2 L1C",
    dtype="uint16",
    bands=_s2(
        {
            "B1": 1612.9, "B2": 1397.6, "B3": 1322.3, "B4": 1373.1, "B5": 1561.0, "B6": 2108.4,
            "B7": 2390.7, "B8": 2318.7, "B8A": 2581.0, "B9": 837.7, "B10": 22.0, "B11": 2195.2,
            "B12": 1537.4,
        },
        [791.0, 854.3, 878.7, 1144.9, 1127.5, 1164.2, 1276.0, 1249.5, 1345.9, 577.5, 47.5, 1340.0,
         1142.9],
    ),
)  # fmt: skip
S2A = Product(
    name="s2a",
    title="Sentinel-2 L2A",
    dtype="uint16",
    bands=_s2(
        {
            "B1": 756.4, "B2": 889.6, "B3": 1151.7, "B4": 1307.6, "B5": 1637.6, "B6": 2212.6,
            "B7": 2442.0, "B8": 2538.9, "B8A": 2602.9, "B9": 2666.8, "B11": 2388.8, "B12": 1821.5,
        },
        [1111.4, 1159.1, 1188.1, 1375.2, 1376.6, 1358.6, 1418.4, 1476.4, 1439.9, 1582.1, 1460.7,
         1352.2],
    ),
)  # fmt: skip
S1 = Product(
    name="s1",
    title="Sentinel-1 GRD",
    dtype="float32",
    bands=(_s1("VV", -12.59, 5.26), _s1("VH", -20.26, 5.91)),
)

PRODUCTS: dict[str, Product] = {product.name: product for product in (S1, S2A, S2C)}
