"""Views left to the device: workers hand over bands at native size, and the parameters drawn.

For machines with few cores per GPU. A worker copies a patch's bytes as they were decoded and puts
the view's parameters behind them; `ssl4eo_stream.augment.device` renders whole batches from that.
The parameters are those that the wrapped views draw on the CPU, from the same generator, and travel
with the batch: the device draws nothing and needs to know neither seed, epoch nor location.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from ssl4eo_stream.augment.geometry import common_cells
from ssl4eo_stream.augment.view import View, ViewParameters
from ssl4eo_stream.bands import Band

RECORD = ("top", "left", "height", "width", "flip", "brightness", "contrast", "gray", "blur_sigma",
          "solarize")  # fmt: skip
"""What stands behind the planes: one float32 each, the box in whole cells."""
RECORD_BYTES = 4 * len(RECORD)
ROW_ALIGNMENT = 16
"""A row's length is a multiple of these bytes: every sample begins on a GPU's widest load."""


@runtime_checkable
class DrawnViews(Protocol):
    """Views whose parameters can be drawn without rendering them, such as `MoCoViews`."""

    @property
    def num_views(self) -> int:
        """Views per location."""
        ...

    def shapes(self, num_channels: int) -> tuple[tuple[int, int, int], ...]:
        """Return each view's (C, H, W)."""
        ...

    def dates(self, num_dates: int, *, rng: np.random.Generator) -> tuple[int, ...]:
        """Return which of a location's dates each view shows."""
        ...

    @property
    def each(self) -> tuple[View, ...]:
        """How each view comes about."""
        ...


@dataclass(frozen=True, kw_only=True)
class NativeGrid:
    """Where the bands of one native size lie in a row: one block, in channel order."""

    side: int
    """Side of the bands in pixels."""
    channels: tuple[int, ...]
    """Channels of the view that these bands are."""
    start: int
    """First byte of the block in the row."""

    @property
    def stop(self) -> int:
        """First byte behind the block."""
        return self.start + len(self.channels) * self.side**2


@dataclass(frozen=True, kw_only=True)
class NativeViews:
    """What the loader hands over of each view when a device renders it: one row of bytes.

    A row is the planes of the view's date, grid by grid (finest first, channels in order within a
    grid, so that each grid is one array on the device), then the parameters of `RECORD`, then
    padding. Views of the same date each hold a copy, which costs little beside decoding
    (benchmarks/device.py). A loader that drops sensors needs views that its workers render.

    Raises:
        ValueError: There are no bands.
    """

    views: DrawnViews
    """Draws the parameters and chooses the dates."""
    sides: tuple[int, ...]
    """Side of every channel's native grid in pixels, in channel order."""

    def __post_init__(self) -> None:
        if not self.sides or min(self.sides) < 1:
            raise ValueError(
                f"sides={self.sides!r} must hold the native side of every channel in pixels, at "
                "least 1. Give for example NativeViews.over(views, bands=S2C.bands)."
            )

    @classmethod
    def over(cls, views: DrawnViews, *, bands: Iterable[Band]) -> "NativeViews":
        """Return native views of these bands, in the loader's channel order."""
        return cls(views=views, sides=tuple(band.pixels for band in bands))

    @cached_property
    def grids(self) -> tuple[NativeGrid, ...]:
        """The blocks of a row, finest grid first."""
        grids, start = [], 0
        for side in sorted(set(self.sides), reverse=True):
            channels = tuple(c for c, each in enumerate(self.sides) if each == side)
            grids.append(NativeGrid(side=side, channels=channels, start=start))
            start = grids[-1].stop
        return tuple(grids)

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """Channels in the order of a row."""
        return tuple(channel for grid in self.grids for channel in grid.channels)

    @cached_property
    def _plane_shapes(self) -> list[tuple[int, int]]:
        return [(side, side) for side in self.sides]

    @cached_property
    def cells(self) -> int:
        """Cells along a patch's side, in which boxes are drawn."""
        return common_cells(self.sides)

    @cached_property
    def record(self) -> slice:
        """Where the parameters lie in a row."""
        start = self.grids[-1].stop
        return slice(start, start + RECORD_BYTES)

    @property
    def num_bytes(self) -> int:
        """Length of a row."""
        return -(-self.record.stop // ROW_ALIGNMENT) * ROW_ALIGNMENT

    @property
    def num_views(self) -> int:
        """Views per location."""
        return self.views.num_views

    def shapes(self, num_channels: int) -> tuple[tuple[int, int, int], ...]:
        """Return (1, 1, bytes of a row) for each view.

        Raises:
            ValueError: The loader has another number of channels than there are sides.
        """
        if num_channels != len(self.sides):
            raise ValueError(
                f"The loader has {num_channels} channels, but sides={self.sides!r} describes "
                f"{len(self.sides)}. Give NativeViews the bands that the loader reads, in order."
            )
        return ((1, 1, self.num_bytes),) * self.num_views

    def dates(self, num_dates: int, *, rng: np.random.Generator) -> tuple[int, ...]:
        """Return which of a location's dates each view shows, as the wrapped views choose."""
        return self.views.dates(num_dates, rng=rng)

    def render(
        self,
        planes: Sequence[UInt8[np.ndarray, "_ _"]],
        *,
        view: int,
        rng: np.random.Generator,
        out: UInt8[np.ndarray, "1 1 bytes"],
        lap: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Copy the planes and draw the parameters of one view into `out`.

        Args:
            planes: The patch's bands in channel order, each at its native size.
            view: Which view; their rows are alike but for the parameters.
            rng: Source of the view's randomness.
            out: Where the row goes.
            lap: Called with `other` when done.

        Raises:
            ValueError: The planes have other sizes than `sides` says.
        """
        shapes = [plane.shape for plane in planes]
        if shapes != self._plane_shapes:
            raise ValueError(
                f"planes of {shapes} came, but sides={self.sides!r} promises squares of these "
                "sides. Give NativeViews the bands that the loader reads, in order, and no "
                "sensor_drop: the device renders all bands of a batch alike."
            )
        row, record = out.reshape(-1), self.record
        blocks = [planes[channel].reshape(-1) for channel in self._order]
        np.concatenate(blocks, out=row[: record.start])
        row[record] = encode(self.views.each[view].draw(cells=self.cells, rng=rng)).view(np.uint8)
        row[record.stop :] = 0
        lap("other")


def encode(parameters: ViewParameters) -> Float32[np.ndarray, " 10"]:
    """Return a view's parameters as the numbers of `RECORD`."""
    p = parameters
    return np.array(
        (p.box.top, p.box.left, p.box.height, p.box.width, p.flip, p.brightness, p.contrast,
         p.gray, p.blur_sigma, p.solarize),
        np.float32,
    )  # fmt: skip
