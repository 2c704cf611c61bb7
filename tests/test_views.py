"""Views match a float64 oracle, keep bands registered, and depend on nothing but the seed."""

import pickle
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import views as oracle

from ssl4eo_stream.augment.geometry import Box
from ssl4eo_stream.augment.view import apply
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.bands import S1, S2A, S2C

SIDES = {product.name: [band.pixels for band in product.bands] for product in (S1, S2A, S2C)} | {
    "rgb": [264, 264, 264],
    "s1+s2c": [264] * 2 + [band.pixels for band in S2C.bands],
    "eurosat": [64] * 13,
}
CROP_ONLY = MoCoViews(
    jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0, flip_probability=0.0
)


@pytest.fixture
def unchecked(monkeypatch):
    """Users run without the type checks of the tests; what they get wrong must be told by us."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def textures(sides, *, seed=0, low=0, high=256):
    """Planes with detail on every scale, at their native sizes."""
    rng = np.random.default_rng(seed)
    return [rng.integers(low, high, (side, side), dtype=np.uint8) for side in sides]


def rendered(views, planes, *, seed=0, view=0):
    out = np.empty(views.shapes(len(planes))[view], np.uint8)
    views.render(planes, view=view, rng=np.random.default_rng(seed), out=out)
    return out


@pytest.mark.parametrize("name", SIDES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_view_equals_the_oracle(name, seed):
    views = MoCoViews(size=56)
    planes = textures(SIDES[name], seed=seed)
    cells = min(SIDES[name])
    parameters = views.draw(cells=cells, rng=np.random.default_rng(seed))
    expected = oracle.render(planes, parameters, views.size)
    # Three roundings to a byte (adjust, resize, blur) of 0.5 each and cv2's 11-bit weights.
    assert np.abs(rendered(views, planes, seed=seed) - expected).max() <= 2.0


@pytest.mark.parametrize("seed", range(12))
def test_adjusting_before_resampling_is_the_released_order(seed):
    """Up to saturation: values stay within 80-150, so nothing reaches 0 or 255."""
    views = MoCoViews(size=224, jitter_probability=1.0, flip_probability=0.0)
    sides = SIDES["s2c"]
    planes = [
        np.rint(oracle.resize(plane.astype(float), len(plane))).astype(np.uint8)
        for plane in textures(sides, seed=seed, low=80, high=150)
    ]
    parameters = views.draw(cells=44, rng=np.random.default_rng(seed))
    expected = oracle.render(planes, parameters, views.size, jitter_first=False)
    # As above, and the mean of the crop before or after resampling: under one more byte.
    assert np.abs(rendered(views, planes, seed=seed) - expected).max() <= 3.0


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["s1", "s2a", "s2c", "rgb"])
def test_bands_stay_registered(name, axis):
    """A ramp of ground coordinates in every grid agrees between bands to half a 10 m pixel.

    One byte is a whole 10 m pixel, too coarse to see that. So every line across the ramp is raised
    by its own known fraction, and the lines of the view are averaged. The outermost half pixel of
    the coarsest grid is left out: interpolation has nothing beyond it to reach for.
    """
    slope = 239 / 264  # bytes per 10 m
    planes, lifts = [], []
    for side in SIDES[name]:
        ground = (np.arange(side) + 0.5) * 264 / side
        lift = 16 * (np.arange(side) * 0.618034 % 1)
        plane = np.rint(ground[None, :] * slope + lift[:, None]).astype(np.uint8)
        planes.append(np.ascontiguousarray(plane if axis == 1 else plane.T))
        lifts.append(lift)
    views = replace(CROP_ONLY, flip_probability=0.5)
    cells = min(SIDES[name])
    for seed in range(40):
        p = views.draw(cells=cells, rng=np.random.default_rng(seed))
        profiles = rendered(views, planes, seed=seed).mean(axis=2 - axis)  # (C, size)
        crops = [lift[p.box.slices(len(lift))[1 - axis]] for lift in lifts]
        raised = [(oracle.bilinear_matrix(len(each), views.size) @ each).mean() for each in crops]
        metres10 = (profiles - np.array(raised)[:, None]) / slope
        start, length = (p.box.top, p.box.height) if axis == 0 else (p.box.left, p.box.width)
        expected = (start + (np.arange(views.size) + 0.5) * length / views.size) * 264 / cells
        if axis == 1 and p.flip:
            expected = expected[::-1]
        margin = int(np.ceil(0.5 * views.size / length))
        inside = slice(margin, -margin)
        assert np.ptp(metres10[:, inside], axis=0).max() < 0.5
        assert np.abs(metres10 - expected)[:, inside].max() < 0.5


@pytest.mark.parametrize("name", SIDES)
def test_view_is_written_in_place_and_nowhere_else(name):
    views = MoCoViews(size=32)
    planes = textures(SIDES[name])
    for plane in planes:
        plane.flags.writeable = False
    channels = len(planes)
    batch = np.full((3, channels, 32, 32), 7, np.uint8)
    for seed in range(20):
        batch[:] = 7
        views.render(planes, view=1, rng=np.random.default_rng(seed), out=batch[1])
        np.testing.assert_array_equal(batch[1], rendered(views, planes, seed=seed))
        assert (batch[[0, 2]] == 7).all()


def test_every_pixel_is_written():
    views = MoCoViews(size=48)
    planes = textures(SIDES["s2c"])
    for seed in range(20):
        dark, bright = np.zeros((13, 48, 48), np.uint8), np.full((13, 48, 48), 255, np.uint8)
        for out in (dark, bright):
            views.render(planes, view=0, rng=np.random.default_rng(seed), out=out)
        np.testing.assert_array_equal(dark, bright)


def test_same_seed_same_bytes_and_same_number_of_draws():
    views = MoCoViews(size=32)
    planes = textures(SIDES["s2c"])
    switched_off = replace(CROP_ONLY, size=32)
    out = np.empty((13, 32, 32), np.uint8)
    for seed in range(20):
        np.testing.assert_array_equal(
            rendered(views, planes, seed=seed), rendered(views, planes, seed=seed, view=1)
        )
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        views.render(planes, view=0, rng=one, out=out)
        switched_off.render(planes, view=0, rng=other, out=out)
        assert one.random() == other.random()


def test_golden_parameters():
    """A change here changes every run that is resumed or repeated."""
    p = MoCoViews().draw(cells=44, rng=np.random.default_rng(2000))
    assert p.box == Box(top=4, left=3, height=38, width=34, cells=44)
    assert (p.flip, p.gray) == (True, True)
    numbers = (p.brightness, p.contrast, p.blur_sigma)
    assert numbers == pytest.approx((1.1275536168718088, 0.7292869477033361, 1.5839614705592204))


def test_views_survive_pickling():
    views = MoCoViews(size=40, season="random")
    again = pickle.loads(pickle.dumps(views))
    assert again == views
    planes = textures(SIDES["s1"])
    np.testing.assert_array_equal(rendered(again, planes), rendered(views, planes))


def test_probabilities_and_ranges():
    views = MoCoViews()
    rng = np.random.default_rng(0)
    drawn = [views.draw(cells=44, rng=rng) for _ in range(4000)]
    jittered = [p for p in drawn if (p.brightness, p.contrast) != (1.0, 1.0)]
    blurred = [p.blur_sigma for p in drawn if p.blur_sigma > 0]
    for share, probability in (
        (len(jittered) / 4000, 0.8),
        (np.mean([p.gray for p in drawn]), 0.2),
        (len(blurred) / 4000, 0.5),
        (np.mean([p.flip for p in drawn]), 0.5),
        (np.mean([p.gray and p.flip for p in drawn]), 0.1),
    ):
        assert share == pytest.approx(probability, abs=0.025)  # over three deviations
    for values, low, high in (
        ([p.brightness for p in jittered], 0.6, 1.4),
        ([p.contrast for p in jittered], 0.6, 1.4),
        (blurred, 0.1, 2.0),
    ):
        assert low <= min(values) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < max(values) <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


@pytest.mark.parametrize("num_dates", [1, 2, 4, 7])
def test_dates_follow_the_season_rule(num_dates):
    rng = np.random.default_rng(0)
    draws = {
        season: [MoCoViews(season=season).dates(num_dates, rng=rng) for _ in range(3000)]
        for season in ("augment", "random", "fixed")
    }
    for pairs in draws.values():
        assert {len(pair) for pair in pairs} == {2}
        assert all(type(date) is int and 0 <= date < num_dates for pair in pairs for date in pair)
    assert set(draws["fixed"]) == {(0, 0)}
    assert set(draws["random"]) == {(date, date) for date in range(num_dates)}
    pairs, counts = np.unique(draws["augment"], axis=0, return_counts=True)
    assert len(pairs) == num_dates**2  # every ordered pair, equal ones too
    assert counts / 3000 == pytest.approx(np.full(len(pairs), num_dates**-2), abs=0.04)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 12, 13, 27])
def test_shapes(num_channels):
    views = MoCoViews(size=96)
    assert views.num_views == 2
    assert views.shapes(num_channels) == ((num_channels, 96, 96), (num_channels, 96, 96))


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("size", 0, "at least 1"),
        ("crop_area", (0.0, 1.0), "0 < low <= high <= 1"),
        ("crop_area", (0.5, 1.1), "0 < low <= high <= 1"),
        ("crop_area", (float("nan"), 1.0), "0 < low <= high <= 1"),
        ("crop_aspect", (1.3, 0.7), "0 < low <= high"),
        ("blur_sigma", (0.0, 2.0), "0 < low <= high"),
        ("blur_sigma", (0.1, float("inf")), "0 < low <= high"),
        ("brightness", -0.1, "between 0 and 1"),
        ("contrast", 1.5, "between 0 and 1"),
        ("jitter_probability", 80.0, "between 0 and 1"),
        ("gray_probability", -1.0, "between 0 and 1"),
        ("blur_probability", float("nan"), "between 0 and 1"),
        ("flip_probability", 2.0, "between 0 and 1"),
        ("season", "summer", "one of augment, random, fixed"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_fields_are_checked(field, value, rule):
    with pytest.raises(ValueError, match=f"{field}=.* must be .*{rule}.* Give for example"):
        MoCoViews(**{field: value})


@pytest.mark.parametrize(
    "out",
    [
        np.empty((13, 32, 32), np.float32),
        np.empty((12, 32, 32), np.uint8),
        np.empty((13, 32, 33), np.uint8),
        np.empty((13, 32, 64), np.uint8)[:, :, ::2],
        np.empty((32, 32, 13), np.uint8).transpose(2, 0, 1),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_target_that_cv2_would_miss_is_refused(out):
    with pytest.raises(ValueError, match=r"C-contiguous uint8 array of \(13, 32, 32\)"):
        MoCoViews(size=32).render(
            textures(SIDES["s2c"]), view=0, rng=np.random.default_rng(0), out=out
        )


def test_oblong_plane_is_refused():
    planes = [np.zeros((64, 64), np.uint8), np.zeros((64, 32), np.uint8)]
    with pytest.raises(ValueError, match=r"band 1 has shape \(64, 32\)"):
        rendered(MoCoViews(size=32), planes)


def test_laps_name_the_stages():
    views = MoCoViews(size=32, flip_probability=0.0)
    planes = textures(SIDES["s1"])
    plain = views.draw(cells=264, rng=np.random.default_rng(0))
    plain = replace(plain, brightness=1.0, contrast=1.0, gray=False, blur_sigma=0.0)
    out = np.empty((2, 32, 32), np.uint8)
    for changes, stages in (
        ({}, {"resize"}),
        ({"brightness": 1.2}, {"resize", "photometric"}),
        ({"blur_sigma": 1.0}, {"resize", "blur"}),
        ({"gray": True}, {"photometric"}),
    ):
        laps = []
        apply(replace(plain, **changes), planes=planes, out=out, lap=laps.append)
        assert set(laps) == stages
