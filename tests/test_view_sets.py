"""The views of each method: how many, of which date, of what recipe; bicubic and solarize."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from ssl4eo_stream.augment.device import DeviceViews
from ssl4eo_stream.augment.native import NativeViews
from ssl4eo_stream.augment.view import View
from ssl4eo_stream.augment.views import DINOViews, MoCoViews, OneView
from ssl4eo_stream.bands import S2C

SIDES = tuple(band.pixels for band in S2C.bands)
PLAIN = {
    "jitter_probability": 0.0, "gray_probability": 0.0, "blur_probability": 0.0,
    "flip_probability": 0.0,
}  # fmt: skip


def textures(seed):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side), dtype=np.uint8) for side in SIDES]


def test_dino_has_two_large_views_and_small_ones():
    views = DINOViews(size=64, local_size=32, local_crops=5)
    assert views.num_views == 7
    assert views.shapes(13) == ((13, 64, 64),) * 2 + ((13, 32, 32),) * 5
    first, second, *small = views.each
    assert (first.blur_probability, second.blur_probability) == (1.0, 0.1)
    assert (first.solarize_probability, second.solarize_probability) == (0.0, 0.2)
    assert all(each == small[0] for each in small)
    assert (small[0].crop_area, small[0].blur_probability) == ((0.05, 0.4), 0.5)
    assert {each.interpolation for each in views.each} == {"bicubic"}


def test_small_views_share_a_date_of_their_own():
    rng = np.random.default_rng(0)
    dates = np.array([DINOViews().dates(4, rng=rng) for _ in range(3000)])
    assert (dates[:, 2:] == dates[:, 2:3]).all()
    joint = np.zeros((4, 4, 4))
    np.add.at(joint, tuple(dates[:, :3].T), 1 / len(dates))
    assert np.abs(joint - 1 / 64).max() < 0.01  # independent, with replacement


@pytest.mark.parametrize("views", [OneView(), MoCoViews(), DINOViews()], ids=type)
def test_seasons(views):
    rng = np.random.default_rng(0)
    fixed, same = (replace(views, season=season) for season in ("fixed", "random"))
    assert fixed.dates(4, rng=rng) == (0,) * views.num_views
    for _ in range(20):
        assert len(set(same.dates(4, rng=rng))) == 1


def test_moco_v3s_second_view_differs():
    views = MoCoViews(blur_probability=1.0, second_blur_probability=0.1)
    rng = np.random.default_rng(0)
    blurred = np.array(
        [[each.draw(cells=44, rng=rng).blur_sigma > 0 for each in views.each] for _ in range(2000)]
    )
    assert blurred[:, 0].all()
    assert blurred[:, 1].mean() == pytest.approx(0.1, abs=0.03)
    with pytest.raises(ValueError, match="second_blur_probability=2"):
        MoCoViews(second_blur_probability=2.0)


def test_solarize_inverts_the_bright_half():
    planes = textures(0)
    plain, inverted = np.empty((2, 13, 48, 48), np.uint8)
    View(size=48, **PLAIN).fill(planes, rng=np.random.default_rng(1), out=plain)
    view = View(size=48, solarize_probability=1.0, **PLAIN)
    view.fill(planes, rng=np.random.default_rng(1), out=inverted)
    assert np.array_equal(inverted, np.where(plain >= 128, 255 - plain, plain))


def test_bicubic_is_cv2s():
    planes = textures(0)
    view = View(size=48, interpolation="bicubic", **PLAIN)
    out = np.empty((13, 48, 48), np.uint8)
    view.fill(planes, rng=np.random.default_rng(2), out=out)
    box = view.draw(cells=44, rng=np.random.default_rng(2)).box
    for plane, got in zip(planes, out, strict=True):
        want = cv2.resize(plane[box.slices(len(plane))].astype(np.float64), (48, 48),
                          interpolation=cv2.INTER_CUBIC)  # fmt: skip
        assert np.abs(got - want.clip(0, 255)).max() < 1.5


@pytest.mark.parametrize("view", [0, 1, 2])
def test_the_device_renders_dinos_views(view):
    views = DINOViews(size=80, local_size=48, local_crops=1, second_solarize_probability=0.5)
    native = NativeViews(views=views, sides=SIDES)
    rows = np.zeros((8, 1, 1, native.num_bytes), np.uint8)
    shape = views.shapes(13)[view]
    cpu = np.zeros((8, *shape), np.uint8)
    for seed in range(8):
        planes = textures(seed)
        native.render(planes, view=view, rng=np.random.default_rng(seed), out=rows[seed])
        views.render(planes, view=view, rng=np.random.default_rng(seed), out=cpu[seed])
    device = DeviceViews(native)([torch.from_numpy(rows)] * 3)[view].numpy()
    difference = np.abs(device.astype(int) - cpu.astype(int))
    # On noise, the hardest case: the CPU path holds bicubic's overshoot within a byte before
    # blurring, the device after.
    assert np.quantile(difference, 0.999) <= 8
    assert difference.mean() < 0.5
