"""What a method sees of a location: its views, rendered in the loader's workers.

A views object says how many views there are, of what shape, which date each shows, and fills one
from the decoded bands. The loader only calls those four, so any class that has them will do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.augment.geometry import Interpolation
from ssl4eo_stream.augment.view import View

Season = Literal["augment", "random", "fixed"]


@dataclass(frozen=True, kw_only=True)
class OneView(View):
    """The view of MAE and data2vec as SSL4EO-S12 trained them: crop and mirror of one date.

    Released `pretrain_mae_s2c.py`; data2vec's script at augmentation level 2 has the same.
    """

    jitter_probability: float = 0.0
    """Chance that brightness and contrast change."""
    gray_probability: float = 0.0
    """Chance that all bands are replaced by their mean."""
    blur_probability: float = 0.0
    """Chance of a Gaussian blur."""
    season: Season = "random"
    """Which date the view shows: any (`augment` and `random`), or the location's first (`fixed`);
    see also `--select.unit patch`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        seasons = get_args(Season)
        self._check(self.season in seasons, "season", f"one of {', '.join(seasons)}", "augment")

    @property
    def each(self) -> tuple[View, ...]:
        """How each view comes about."""
        return self._each

    @cached_property
    def _each(self) -> tuple[View, ...]:
        return (_view(self),)

    @property
    def num_views(self) -> int:
        """Views per location."""
        return len(self.each)

    def shapes(self, num_channels: int) -> tuple[tuple[int, int, int], ...]:
        """Return (C, H, W) of each view for this many bands."""
        return tuple((num_channels, view.size, view.size) for view in self.each)

    def dates(self, num_dates: int, *, rng: np.random.Generator) -> tuple[int, ...]:
        """Return which of a location's dates each view shows, by the `season` rule."""
        if self.season == "fixed":
            return (0,) * self.num_views
        if self.season == "random":
            return (int(rng.integers(num_dates)),) * self.num_views
        return self.independent_dates(num_dates, rng=rng)

    def independent_dates(self, num_dates: int, *, rng: np.random.Generator) -> tuple[int, ...]:
        """Return dates by the `augment` rule: each view's is drawn by itself."""
        return tuple(rng.integers(num_dates, size=self.num_views).tolist())

    def render(
        self,
        planes: Sequence[UInt8[np.ndarray, "_ _"]],
        *,
        view: int,
        rng: np.random.Generator,
        out: UInt8[np.ndarray, "c h w"],
        lap: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Write view number `view` of a patch into `out`; the rest as in `View.fill`."""
        self.each[view].fill(planes, rng=rng, out=out, lap=lap)


@dataclass(frozen=True, kw_only=True)
class MoCoViews(OneView):
    """Two views of a location; the defaults are those of MoCo-v2 as SSL4EO-S12 trained it.

    MoCo-v3's have `crop_area` (0.08, 1), `blur_probability` 1 and `second_blur_probability` 0.1
    (released `pretrain_moco_v3_s2c.py`, which leaves out MoCo-v3's solarize on the second).
    """

    jitter_probability: float = 0.8
    """Chance that brightness and contrast change; one coin for both (MoCo v2; released script)."""
    gray_probability: float = 0.2
    """Chance that all bands are replaced by their mean (MoCo v2; released script)."""
    blur_probability: float = 0.5
    """Chance of a Gaussian blur (MoCo v2; released script)."""
    second_blur_probability: float | None = None
    """The same for the second view, if it differs."""
    second_solarize_probability: float | None = None
    """Chance of solarize for the second view, if it differs."""
    season: Season = "augment"
    """Which dates the views show. `augment`: independent draws with replacement, best in table IX
    of the paper; `random`: one draw for all; `fixed`: the location's first date."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("second_blur_probability", "second_solarize_probability"):
            value = getattr(self, name)
            good = value is None or 0 <= value <= 1
            self._check(good, name, "between 0 and 1", "0 to switch it off")

    @cached_property
    def _each(self) -> tuple[View, ...]:
        changed = {
            "blur_probability": self.second_blur_probability,
            "solarize_probability": self.second_solarize_probability,
        }
        first = _view(self)
        second = {name: value for name, value in changed.items() if value is not None}
        return first, replace(first, **second)


@dataclass(frozen=True, kw_only=True)
class DINOViews(MoCoViews):
    """Two large views and several small ones, as SSL4EO-S12 trained DINO.

    Defaults are those of its ViT-S/16; ResNet-50 has `crop_area` (0.14, 1) and `local_area`
    (0.05, 0.14) (released `pretrain_dino_s2c.py`).
    """

    crop_area: tuple[float, float] = (0.4, 1.0)
    """Least and greatest share of the patch that a large view shows."""
    blur_probability: float = 1.0
    """Chance of a Gaussian blur in the first large view."""
    second_blur_probability: float | None = 0.1
    """The same in the second."""
    second_solarize_probability: float | None = 0.2
    """Chance of solarize in the second large view."""
    interpolation: Interpolation = "bicubic"
    """How bands are resampled."""
    local_crops: int = 8
    """Small views."""
    local_size: int = 96
    """Side of a small view in pixels."""
    local_area: tuple[float, float] = (0.05, 0.4)
    """Least and greatest share of the patch that a small view shows."""
    local_blur_probability: float = 0.5
    """Chance of a Gaussian blur in a small view."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(self.local_crops >= 0, "local_crops", "at least 0", "8")
        _ = self._each  # checks what small views are made of

    @cached_property
    def _each(self) -> tuple[View, ...]:
        local = replace(
            _view(self), size=self.local_size, crop_area=self.local_area,
            blur_probability=self.local_blur_probability,
        )  # fmt: skip
        return *super()._each, *(local,) * self.local_crops

    def independent_dates(self, num_dates: int, *, rng: np.random.Generator) -> tuple[int, ...]:
        """Return dates by the `augment` rule: one for each large view, one for all small ones."""
        first, second, others = rng.integers(num_dates, size=3).tolist()
        return first, second, *(others,) * self.local_crops


def _view(views: View) -> View:
    """Return the fields that make up one view."""
    return View(**{field.name: getattr(views, field.name) for field in fields(View)})
