"""Workers hand over native planes and the very parameters that the CPU path draws."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl4eo_stream.augment.device import DeviceViews
from ssl4eo_stream.augment.native import RECORD_BYTES, NativeViews
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.bands import S1, S2A, S2C
from ssl4eo_stream.stream.loader import StreamLoader

SIDES = {product.name: tuple(band.pixels for band in product.bands) for product in (S1, S2A, S2C)}
SIDES |= {"rgb": (264,) * 3, "s1+s2c": (264,) * 2 + SIDES["s2c"], "odd": (45, 15, 45, 5)}


def textures(sides, *, seed=0):
    """Planes with detail on every scale, at their native sizes."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side), dtype=np.uint8) for side in sides]


@pytest.mark.parametrize("name", SIDES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32), view=st.sampled_from([0, 1]))
def test_row_holds_planes_and_the_very_parameters_that_the_cpu_draws(name, seed, view):
    views, sides = MoCoViews(), SIDES[name]
    native = NativeViews(views=views, sides=sides)
    planes = textures(sides, seed=seed)
    out = np.full(native.shapes(len(sides))[view], 7, np.uint8)
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
    native.render(planes, view=view, rng=rng, out=out)
    p = views.each[view].draw(cells=native.cells, rng=other)
    assert rng.random() == other.random()
    expected = (
        p.box.top, p.box.left, p.box.height, p.box.width, p.flip, p.brightness, p.contrast, p.gray,
        p.blur_sigma, p.solarize,
    )  # fmt: skip
    row = out.ravel()
    np.testing.assert_array_equal(
        row[native.record].view(np.float32), np.array(expected, np.float32)
    )
    order = sorted(range(len(sides)), key=lambda channel: -sides[channel])  # stable
    before = np.concatenate([planes[channel].ravel() for channel in order])
    np.testing.assert_array_equal(row[: native.record.start], before)
    assert not row[len(before) + RECORD_BYTES :].any()
    assert len(row) % 16 == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_hands_over_what_it_would_have_rendered(shards, workers):
    views = MoCoViews(size=64)
    native = NativeViews.over(views, bands=S2C.bands)
    device = DeviceViews(native)
    with (
        StreamLoader(str(shards), views=views, batch_size=4, seed=3) as there,
        StreamLoader(str(shards), views=native, batch_size=4, seed=3, workers=workers) as here,
    ):
        by_key = {key: [view[i].int() for view in batch.views] for batch in there
                  for i, key in enumerate(batch.keys)}  # fmt: skip
        seen = []
        for batch in here:
            for i, (key, *views_of_key) in enumerate(
                zip(batch.keys, *device(batch.views), strict=True)
            ):
                seen.append(key)
                for ours, theirs in zip(views_of_key, by_key[key], strict=True):
                    assert (ours.int() - theirs).abs().max() <= 2, (i, key)
    assert sorted(seen) == sorted(by_key)
    assert len(seen) == 16


def test_native_views_survive_pickling():
    native = NativeViews.over(MoCoViews(season="random"), bands=S2C.bands)
    assert native.num_views == 2
    again = pickle.loads(pickle.dumps(native))
    assert again == native
    assert again.grids == native.grids
    one, other = np.random.default_rng(1), np.random.default_rng(1)
    assert again.dates(4, rng=one) == native.views.dates(4, rng=other)


def test_workers_do_not_import_torch():
    code = "import sys, ssl4eo_stream.augment.native; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_bands_that_do_not_fit_are_refused():
    native = NativeViews.over(MoCoViews(), bands=S2A.bands)
    with pytest.raises(ValueError, match=r"loader has 13 channels.* describes 12\. Give Native"):
        native.shapes(13)
    out = np.empty(native.shapes(12)[0], np.uint8)
    planes = textures(SIDES["s2a"])[::-1]
    with pytest.raises(ValueError, match=r"planes of .*132, 132.* Give NativeViews the bands"):
        native.render(planes, view=0, rng=np.random.default_rng(0), out=out)


def test_no_bands_are_refused():
    with pytest.raises(ValueError, match=r"sides=\(\) must hold .* Give for example"):
        NativeViews.over(MoCoViews(), bands=[])
