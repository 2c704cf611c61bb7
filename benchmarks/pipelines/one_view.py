"""One view per location, cropped and mirrored: what a masked autoencoder trains on."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.augment.views import MoCoViews


@dataclass(frozen=True, kw_only=True)
class OneView:
    """The released `pretrain_mae_s2c.py`'s view: random resized crop and mirror of one date."""

    size: int = 224
    """Side of the view in pixels."""
    _views: MoCoViews = field(init=False, repr=False)

    def __post_init__(self) -> None:
        views = MoCoViews(
            size=self.size, jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0
        )
        object.__setattr__(self, "_views", views)

    @property
    def num_views(self) -> int:
        """One."""
        return 1

    def shapes(self, num_channels: int) -> tuple[tuple[int, int, int], ...]:
        """Return (C, H, W) of the view."""
        return ((num_channels, self.size, self.size),)

    def dates(self, num_dates: int, *, rng: np.random.Generator) -> tuple[int, ...]:
        """Return any one date."""
        return (int(rng.integers(num_dates)),)

    def render(
        self,
        planes: list[UInt8[np.ndarray, "_ _"]],
        *,
        view: int,
        rng: np.random.Generator,
        out: UInt8[np.ndarray, "c h w"],
        lap: Callable[[str], None],
    ) -> None:
        """Write the view into `out`; arguments as in `MoCoViews.render`."""
        self._views.render(planes, view=view, rng=rng, out=out, lap=lap)
