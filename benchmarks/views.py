"""How long does one core take to turn a decoded 13-band patch into a MoCo view, and where?

Run: `taskset -c 1 python benchmarks/views.py --data TREE`, TREE being Sentinel-2 L1C as published
(`TREE/<location>/<acquisition>/B1.tif ...`). Needs no network.

The same views (their parameters drawn beforehand) are rendered three ways: by this package from
bands at native size; by cv2 on height x width x bands as the released code does it; by
torchvision's uint8 kernels on tensors. The last two start from bands upsampled to 264 x 264
beforehand, which is not counted. Then each step alone, always applied, beside the ways of doing it
that were tried. Times are per view, of all bands, in microseconds: the mean over the patches, then
median and quartiles over the repeats.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
import torch
from report import summary, table, write_result
from torchvision.transforms.v2 import functional as tv

from ssl4eo_stream.augment.geometry import crop, resize, resize_bands
from ssl4eo_stream.augment.radiometry import adjust, blur, gray
from ssl4eo_stream.augment.view import ViewParameters, apply
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.bands import S2C

VIEWS = MoCoViews()
SIZE = (VIEWS.size, VIEWS.size)
Patch = list[np.ndarray]


def read_patches(tree: Path, *, count: int) -> list[Patch]:
    """Read the first patches of a tree as the loader gives them: bytes at native size."""
    folders = sorted(path.parent for path in tree.glob("*/*/B1.tif"))[:count]
    if not folders:
        raise SystemExit(f"--data {tree}: no <location>/<acquisition>/B1.tif inside. Give a tree.")
    patches = []
    for folder in folders:
        values = [tifffile.imread(folder / f"{name}.tif") for name in S2C.names]
        patches.append([np.clip(np.rint(v / band.scale), 0, 255).astype(np.uint8)
                        for v, band in zip(values, S2C.bands, strict=True)])  # fmt: skip
    return patches


def released(image: np.ndarray, p: ViewParameters) -> np.ndarray:
    """One view as the released code makes it, wrap included. `image` is (264, 264, C) uint8."""
    rows, columns = p.box.slices(len(image))
    view = cv2.resize(image[rows, columns], SIZE, interpolation=cv2.INTER_LINEAR)
    if (p.brightness, p.contrast) != (1.0, 1.0):
        view = (view * p.brightness).astype(np.int64).astype(np.uint8)
        mean = view.mean(axis=(0, 1))
        view = ((view - mean) * p.contrast + mean).astype(np.int64).astype(np.uint8)
    if p.gray:
        view = np.repeat(view.mean(axis=2, keepdims=True).astype(np.uint8), view.shape[2], axis=2)
    if p.blur_sigma > 0:
        view = cv2.GaussianBlur(view, (0, 0), p.blur_sigma)
    if p.flip:
        view = view[:, ::-1]
    return np.ascontiguousarray(view.transpose(2, 0, 1))


def torchvision_view(image: torch.Tensor, p: ViewParameters) -> torch.Tensor:
    """One view with torchvision v2 on (C, 264, 264) uint8; bands are a batch of gray images."""
    rows, columns = p.box.slices(image.shape[1])
    view = tv.resize(image[:, rows, columns], list(SIZE), antialias=False)
    if (p.brightness, p.contrast) != (1.0, 1.0):
        view = tv.adjust_contrast(tv.adjust_brightness(view[:, None], p.brightness), p.contrast)
        view = view[:, 0]
    if p.gray:
        view = view.float().mean(dim=0, keepdim=True).to(torch.uint8).expand_as(view)
    if p.blur_sigma > 0:
        kernel = round(6 * p.blur_sigma + 1) | 1
        view = tv.gaussian_blur(view, [kernel, kernel], [p.blur_sigma, p.blur_sigma])
    return tv.horizontal_flip(view) if p.flip else view


def timed(
    work: Mapping[str, Callable[[int], Any]], *, count: int, repeats: int
) -> dict[str, list[float]]:
    """Return the mean microseconds of each `work(i)` over i in range(count), once per repeat.

    All take turns, so that a slow minute of the machine falls on all of them.
    """
    means = defaultdict(list)
    for repeat in range(repeats + 1):
        for name, each in work.items():
            begin = time.perf_counter()
            for i in range(count):
                each(i)
            if repeat > 0:  # the first warms up
                means[name].append((time.perf_counter() - begin) / count * 1e6)
    return means


class Laps:
    """Seconds charged to each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        """Charge the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.seconds[stage] += now - self.last
        self.last = now


def stages(
    patches: Sequence[Patch], drawn: Sequence[ViewParameters], *, repeats: int
) -> dict[str, list[float]]:
    """Return microseconds per view of each stage that `apply` reports, once per repeat."""
    out = np.empty((len(S2C.bands), *SIZE), np.uint8)
    means = defaultdict(list)
    for repeat in range(repeats + 1):
        laps = Laps()
        for planes, p in zip(patches, drawn, strict=True):
            apply(p, planes=planes, out=out, lap=laps)
        if repeat > 0:
            for stage, seconds in laps.seconds.items():
                means[stage].append(seconds / len(drawn) * 1e6)
    return means


def alternatives(
    patches: Sequence[Patch], drawn: Sequence[ViewParameters]
) -> dict[str, Callable[[int], Any]]:
    """Return each step alone, the one in use and those tried, always applied."""
    out = np.zeros((len(S2C.bands), *SIZE), np.uint8)
    cut = [crop(planes, box=p.box) for planes, p in zip(patches, drawn, strict=True)]
    images = [[cv2.resize(patch, SIZE) for patch in each] for each in cut]
    levels = np.arange(256)
    factors = [(0.6 + 0.8 * i / len(drawn), 1.4 - 0.8 * i / len(drawn)) for i in range(len(drawn))]
    sigmas = np.linspace(*VIEWS.blur_sigma, len(drawn)).tolist()

    def by_adjust(bands: Patch, i: int) -> None:
        b, c = factors[i]
        for band in bands:
            adjust(band, brightness=b, contrast=c)

    def by_table(bands: Patch, i: int) -> None:
        b, c = factors[i]
        for band in bands:
            line = levels * (b * c) + b * (1 - c) * cv2.mean(band)[0]
            cv2.LUT(band, np.clip(np.rint(line), 0, 255).astype(np.uint8))

    def by_absolute(bands: Patch, i: int) -> None:
        b, c = factors[i]
        for band in bands:
            cv2.convertScaleAbs(band, alpha=b * c, beta=b * (1 - c) * cv2.mean(band)[0])

    def by_resize(i: int, flag: int) -> None:
        for patch, plane in zip(cut[i], out, strict=True):
            cv2.resize(patch, SIZE, dst=plane, interpolation=flag)

    def by_gaussian_blur(i: int) -> None:
        for band in images[i]:
            cv2.GaussianBlur(band, (0, 0), sigmas[i])

    def gray_after(i: int) -> None:
        for patch, plane in zip(cut[i], out, strict=True):
            resize(patch, out=plane)
        total = np.add.reduce(out, axis=0, dtype=np.uint16)
        cv2.convertScaleAbs(total, alpha=1 / len(out), dst=out[0])

    def by_copies(i: int) -> None:
        for patch in cut[i]:
            patch.copy()

    def by_mean(i: int) -> None:
        for patch in cut[i]:
            cv2.mean(patch)

    def by_norm(i: int) -> None:
        for patch in cut[i]:
            cv2.norm(patch, cv2.NORM_L1)

    stacked = [np.stack(bands) for bands in images]
    return {
        "crop, in use: slices": lambda i: crop(patches[i], box=drawn[i].box),
        "crop: contiguous copies": by_copies,
        "resize, in use: four bands as channels, IPP": lambda i: resize_bands(cut[i], out=out),
        "resize and mirror, in use": lambda i: resize_bands(cut[i], out=out, flip=True),
        "resize: cv2 bilinear, band by band": lambda i: by_resize(i, cv2.INTER_LINEAR),
        "resize: cv2 INTER_LINEAR_EXACT": lambda i: by_resize(i, cv2.INTER_LINEAR_EXACT),
        "resize: cv2 bicubic": lambda i: by_resize(i, cv2.INTER_CUBIC),
        "adjust, in use: addWeighted at native size": lambda i: by_adjust(cut[i], i),
        "adjust: of this the mean, in use: norm": by_norm,
        "adjust: the mean by cv2.mean": by_mean,
        "adjust: addWeighted after resampling": lambda i: by_adjust(images[i], i),
        "adjust: table (cv2.LUT) at native size": lambda i: by_table(cut[i], i),
        "adjust: convertScaleAbs at native size (wrong below 0)": lambda i: by_absolute(cut[i], i),
        "gray, in use: sum per grid, then resample": lambda i: gray(cut[i], out=out[0]),
        "gray: resample all bands, then mean": gray_after,
        "blur, in use: sepFilter2D": lambda i: blur(stacked[i], sigma=sigmas[i]),
        "blur: cv2.GaussianBlur": by_gaussian_blur,
    }


def main() -> None:
    """Measure, print and write the result."""
    question, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--data", type=Path, required=True, help="tree of published L1C patches")
    parser.add_argument("--patches", type=int, default=48, help="patches (and views) to measure on")
    parser.add_argument("--repeats", type=int, default=9, help="passes over them, after one more")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)

    patches = read_patches(options.data, count=options.patches)
    rng = np.random.default_rng(0)
    cells = min(band.pixels for band in S2C.bands)
    drawn = [VIEWS.draw(cells=cells, rng=rng) for _ in patches]
    whole = [np.stack([cv2.resize(band, (264, 264)) for band in planes]) for planes in patches]
    channels_last = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in whole]
    tensors = [torch.from_numpy(image) for image in whole]
    out = np.empty((len(S2C.bands), *SIZE), np.uint8)

    work: dict[str, Callable[[int], Any]] = {
        "view: this package": lambda i: apply(
            drawn[i], planes=patches[i], out=out, lap=lambda _: None
        ),
        "view: cv2 on height x width x bands, as released": lambda i: released(
            channels_last[i], drawn[i]
        ),
        "view: torchvision v2, uint8": lambda i: torchvision_view(tensors[i], drawn[i]),
        "draw the parameters": lambda _: VIEWS.draw(cells=cells, rng=rng),
        **alternatives(patches, drawn),
    }
    measured = stages(patches, drawn, repeats=options.repeats)
    results = {f"of this, {stage}": values for stage, values in measured.items()}
    results |= timed(work, count=len(patches), repeats=options.repeats)
    order = sorted(
        results, key=lambda name: (not name.startswith("view"), not name.startswith("of"))
    )
    rows = [{"step": name, "unit": "µs/view", **summary(results[name])} for name in order]
    print(table(rows))
    print(write_result("views", question=question, repeats=options.repeats, rows=rows))


if __name__ == "__main__":
    main()
