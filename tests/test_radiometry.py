"""Brightness, contrast, gray and blur match float64 formulas and never wrap."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import views as oracle

from ssl4eo_stream.augment.radiometry import NO_BLUR, adjust, blur, gray

BYTES = arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)))
FACTOR = st.floats(0, 2)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@given(patch=BYTES, brightness=FACTOR, contrast=FACTOR)
def test_adjust_is_the_saturating_formula(patch, brightness, contrast):
    expected = oracle.adjust(patch.astype(float), brightness, contrast)
    # 0.5 for rounding, a little more for cv2's float32.
    assert np.abs(adjust(patch, brightness=brightness, contrast=contrast) - expected).max() <= 0.51


@given(patch=BYTES, brightness=FACTOR, contrast=FACTOR)
def test_adjust_keeps_the_order_of_pixels(patch, brightness, contrast):
    """Neither overflow nor an absolute value makes a brighter pixel the darker one."""
    result = adjust(patch, brightness=brightness, contrast=contrast).ravel().astype(int)
    assert (np.diff(result[np.argsort(patch.ravel(), kind="stable")]) >= 0).all()


def test_adjust_saturates_at_both_ends():
    patch = np.array([[0, 10, 100, 250, 255]], np.uint8)
    assert adjust(patch, brightness=1.4, contrast=1.0).tolist() == [[0, 14, 140, 255, 255]]
    # Mean 123: the offset is -49.2, and 0 must not come out as 49.
    assert adjust(patch, brightness=1.0, contrast=1.4).tolist() == [[0, 0, 91, 255, 255]]


def test_adjust_reads_a_crop_where_it_lies():
    plane = noise(60, 50)
    patch = plane[3:40, 7:44]
    expected = adjust(patch.copy(), brightness=1.2, contrast=0.7)
    np.testing.assert_array_equal(adjust(patch, brightness=1.2, contrast=0.7), expected)
    assert expected.flags.c_contiguous


def test_adjust_leaves_its_input_and_is_neutral_at_one():
    patch = noise(20, 20)
    before = patch.copy()
    np.testing.assert_array_equal(adjust(patch, brightness=1.0, contrast=1.0), before)
    adjust(patch, brightness=0.5, contrast=1.3)
    np.testing.assert_array_equal(patch, before)


@pytest.mark.parametrize(
    "shapes",
    [
        [(120, 186)] * 2,
        [(120, 186)] * 3,
        [(20, 31)] * 3 + [(120, 186)] * 4 + [(60, 93)] * 6,
        [(30, 30)] * 40,
    ],
)
def test_gray_is_the_mean_over_bands(shapes):
    patches = [noise(*shape, seed=c) for c, shape in enumerate(shapes)]
    buffer = np.full((3, 64, 64), 7, np.uint8)
    gray(patches, out=buffer[1])
    expected = np.mean([oracle.resize(patch.astype(float), 64) for patch in patches], axis=0)
    assert np.abs(buffer[1] - expected).max() <= 0.51
    assert (buffer[[0, 2]] == 7).all()


def test_gray_of_white_is_white():
    out = np.empty((8, 8), np.uint8)
    gray([np.full((4 * n, 4 * n), 255, np.uint8) for n in (1, 2, 3)], out=out)
    assert (out == 255).all()


@pytest.mark.parametrize("sigma", [0.1, 0.25, 0.4, 0.5, 0.9, 1.3, 2.0])
def test_blur_is_the_truncated_gaussian(sigma):
    planes = noise(3, 40, 56)
    expected = np.stack([oracle.blur(plane.astype(float), sigma) for plane in planes])
    library = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in planes])
    blur(planes, sigma=sigma)
    assert np.abs(planes - expected).max() <= 0.51
    # GaussianBlur's own 8-bit coefficients leave it up to 1.6 from the exact value.
    assert np.abs(planes.astype(int) - library).max() <= 2


@pytest.mark.parametrize("value", [0, 1, 254, 255])
@pytest.mark.parametrize("sigma", [0.37, 0.8, 1.77, 2.0])
def test_blur_keeps_flat_ground(value, sigma):
    planes = np.full((2, 30, 30), value, np.uint8)
    blur(planes, sigma=sigma)
    assert (planes == value).all()


@pytest.mark.parametrize("centre", [0, 255])
def test_blur_is_left_out_only_where_it_changes_no_byte(centre):
    """A lone pixel among its opposites moves most."""
    plane = np.full((9, 9), 255 - centre, np.uint8)
    plane[4, 4] = plane[0, 0] = centre
    for planes in (plane[None].copy(), noise(3, 40, 40)):
        before = planes.copy()
        kernel = cv2.getGaussianKernel(3, NO_BLUR)
        for each in planes:
            np.testing.assert_array_equal(cv2.sepFilter2D(each, -1, kernel, kernel), each)
        blur(planes, sigma=NO_BLUR - 1e-9)
        np.testing.assert_array_equal(planes, before)
    planes = plane[None].copy()
    blur(planes, sigma=NO_BLUR * 1.2)
    assert (planes != plane).any()


def test_blur_writes_in_place_and_only_there():
    buffer = noise(4, 32, 32)
    before = buffer.copy()
    blur(buffer[1:3], sigma=1.0)
    np.testing.assert_array_equal(buffer[[0, 3]], before[[0, 3]])
    assert (buffer[1:3] != before[1:3]).any(axis=(1, 2)).all()
