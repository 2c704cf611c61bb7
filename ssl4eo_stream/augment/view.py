"""How one view of a patch comes about: its random choices, and the bytes that follow from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from ssl4eo_stream.augment.geometry import (
    BOX_UNIFORMS,
    Box,
    Interpolation,
    common_cells,
    crop,
    draw_box,
    resize_bands,
)
from ssl4eo_stream.augment.radiometry import adjust, blur, gray, solarize


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """Every random choice of one view. What is not applied has its neutral value."""

    box: Box
    """The ground that the view shows."""
    flip: bool
    """Whether it is mirrored left to right."""
    brightness: float
    """Factor on all bands; 1 leaves them."""
    contrast: float
    """Factor on the distance to each band's mean; 1 leaves it."""
    gray: bool
    """Whether all bands are replaced by their mean."""
    blur_sigma: float
    """Standard deviation of the blur in pixels of the view; 0 for none."""
    solarize: bool = False
    """Whether the bright half of the values is inverted."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One view: random resized crop, brightness and contrast, grayscale, blur, solarize, mirror.

    Defaults are those of the released `pretrain_moco_v2_s2c.py` and `rs_transforms_uint8.py`,
    called "released script" below, without their integer wrap.

    Brightness and contrast act on the bands at native size, before resampling: fewer pixels, and
    values that saturate do so where they were measured. The mirror comes with the crop.

    Raises:
        ValueError: A field is out of its range.
    """

    size: int = 224
    """Side of a view in pixels (paper; released script)."""
    crop_area: tuple[float, float] = (0.2, 1.0)
    """Least and greatest share of the patch that a view shows (MoCo v2; released script)."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest ratio of the crop's sides (torchvision's default; released code)."""
    brightness: float = 0.4
    """Brightness is multiplied by U(1 - this, 1 + this), one for all bands (released script)."""
    contrast: float = 0.4
    """Contrast about each band's mean is multiplied by U(1 - this, 1 + this) (released script)."""
    jitter_probability: float = 0.8
    """Chance that brightness and contrast change; one coin for both (MoCo v2; released script)."""
    gray_probability: float = 0.2
    """Chance that all bands are replaced by their mean (MoCo v2; released script)."""
    blur_probability: float = 0.5
    """Chance of a Gaussian blur (MoCo v2; released script)."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Least and greatest standard deviation of the blur in pixels (MoCo v2; released script)."""
    solarize_probability: float = 0.0
    """Chance that values of at least 128 are inverted, as PIL and DINO's code do it; the released
    code inverts those below."""
    flip_probability: float = 0.5
    """Chance that a view is mirrored left to right (MoCo v2; released script)."""
    interpolation: Interpolation = "bilinear"
    """How bands are resampled (bicubic for DINO; released script)."""

    def __post_init__(self) -> None:
        self._check(self.size >= 1, "size", "at least 1", "224")
        for name, top, example in (
            ("crop_area", 1.0, "(0.2, 1.0)"),
            ("crop_aspect", np.inf, "(0.75, 1.3333)"),
            ("blur_sigma", np.inf, "(0.1, 2.0)"),
        ):
            low, high = getattr(self, name)
            rule = "two numbers, 0 < low <= high" + (" <= 1" if top == 1 else "")
            self._check(0 < low <= high <= top and high < np.inf, name, rule, example)
        for name in (
            "brightness",
            "contrast",
            "jitter_probability",
            "gray_probability",
            "blur_probability",
            "solarize_probability",
            "flip_probability",
        ):
            self._check(
                0 <= getattr(self, name) <= 1, name, "between 0 and 1", "0 to switch it off"
            )

    def _check(self, good: bool, name: str, rule: str, example: str) -> None:
        if not good:
            value = getattr(self, name)
            raise ValueError(f"{name}={value!r} must be {rule}. Give for example {example}.")

    def draw(self, *, cells: int, rng: np.random.Generator) -> ViewParameters:
        """Draw the parameters of a view of a patch with `cells` cells along its side.

        Takes the same count of random numbers in the same order whatever is applied, so that
        another device can draw the same views.
        """
        uniforms = rng.random(BOX_UNIFORMS + 8).tolist()
        flip, jitter, brightness, contrast, grayed, blurred, sigma, solar = uniforms[BOX_UNIFORMS:]
        jittered = jitter < self.jitter_probability
        low, high = self.blur_sigma
        return ViewParameters(
            box=draw_box(uniforms, cells=cells, area=self.crop_area, aspect=self.crop_aspect),
            flip=flip < self.flip_probability,
            brightness=1 + self.brightness * (2 * brightness - 1) if jittered else 1.0,
            contrast=1 + self.contrast * (2 * contrast - 1) if jittered else 1.0,
            gray=grayed < self.gray_probability,
            blur_sigma=low + sigma * (high - low) if blurred < self.blur_probability else 0.0,
            solarize=solar < self.solarize_probability,
        )

    def fill(
        self,
        planes: Sequence[UInt8[np.ndarray, "_ _"]],
        *,
        rng: np.random.Generator,
        out: UInt8[np.ndarray, "c h w"],
        lap: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Draw a view of a patch and write it into `out`.

        Args:
            planes: The patch's bands in channel order, each square and at its native size.
            rng: Source of the view's randomness.
            out: Where the view goes: C-contiguous, of the shape that `shapes` gives.
            lap: Called with a stage's name (`resize`, `photometric`, `blur`) when it has finished.

        Raises:
            ValueError: `out` has another shape, type or layout, or a plane is not square.
        """
        shape = (len(planes), self.size, self.size)
        # cv2 would write somewhere else, silently, if its target did not fit.
        if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError(
                f"a view of {len(planes)} bands needs a C-contiguous uint8 array of {shape}, "
                f"not {out.dtype} of {out.shape}. Allocate it with the shape that shapes() gives."
            )
        grids = {plane.shape for plane in planes}
        oblong = [grid for grid in grids if len(grid) != 2 or grid[0] != grid[1]]
        if oblong:
            channel = [plane.shape for plane in planes].index(oblong[0])
            raise ValueError(
                f"band {channel} has shape {oblong[0]}, but patches are square (H, H). "
                "Cut the source's patches to squares before writing shards."
            )
        cells = common_cells(side for side, _ in grids)
        apply(self.draw(cells=cells, rng=rng), planes=planes, out=out, lap=lap,
              interpolation=self.interpolation)  # fmt: skip


def apply(
    parameters: ViewParameters,
    *,
    planes: Sequence[UInt8[np.ndarray, "_ _"]],
    out: UInt8[np.ndarray, "c h w"],
    lap: Callable[[str], None],
    interpolation: Interpolation = "bilinear",
) -> None:
    """Write the view that `parameters` describe into `out`; arguments as in `View.fill`."""
    # Stage by stage over all bands, not band by band through all stages: with planes that lie in
    # the third level of the cache either way, code that stays in the first one counts for more.
    p = parameters
    patches = crop(planes, box=p.box)
    if (p.brightness, p.contrast) != (1.0, 1.0):
        patches = [adjust(each, brightness=p.brightness, contrast=p.contrast) for each in patches]
        lap("photometric")
    if p.gray:
        gray(patches, out=out[0], interpolation=interpolation)
        if p.flip:
            cv2.flip(out[0], 1, dst=out[0])
        lap("photometric")
    else:
        resize_bands(patches, out=out, flip=p.flip, interpolation=interpolation)
        lap("resize")
    if p.blur_sigma > 0:
        blur(out[:1] if p.gray else out, sigma=p.blur_sigma)
        lap("blur")
    if p.solarize:
        solarize(out[:1] if p.gray else out)
        lap("photometric")
    if p.gray:
        out[1:] = out[0]
        lap("photometric")
