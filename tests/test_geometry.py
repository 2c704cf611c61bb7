"""Boxes lie inside the patch and on every grid; crops and resizes match the formula."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import views as oracle

from ssl4eo_stream.augment.geometry import (
    BOX_UNIFORMS,
    Box,
    common_cells,
    crop,
    draw_box,
    resize,
    resize_bands,
)

ASPECT = (3 / 4, 4 / 3)
UNIFORMS = st.lists(st.floats(0, 1, exclude_max=True), min_size=BOX_UNIFORMS, max_size=BOX_UNIFORMS)


def texture(height, width, *, seed=0):
    """Smooth enough to be an image, rough enough to show a mistake."""
    noise = np.random.default_rng(seed).random((9, 9)) * 255
    rows = oracle.bilinear_matrix(9, height)
    columns = oracle.bilinear_matrix(9, width)
    return np.rint(rows @ noise @ columns.T).astype(np.uint8)


@pytest.mark.parametrize(
    ("sides", "cells"),
    [((264, 132, 44), 44), ((264, 132), 132), ((264,), 264), ((132, 44), 44), ((64, 64), 64)],
)
def test_cells_are_the_coarsest_grid(sides, cells):
    assert common_cells(sides) == cells


@given(
    uniforms=UNIFORMS,
    cells=st.sampled_from([1, 2, 7, 44, 132, 264]),
    area=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted).map(tuple),
)
def test_box_lies_inside_the_patch(uniforms, cells, area):
    box = draw_box(uniforms, cells=cells, area=area, aspect=ASPECT)
    assert box.cells == cells
    assert min(box.height, box.width) >= 1
    assert 0 <= box.top <= cells - box.height
    assert 0 <= box.left <= cells - box.width


@given(uniforms=UNIFORMS, cells=st.sampled_from([44, 132, 264]))
def test_box_keeps_area_and_aspect_up_to_snapping(uniforms, cells):
    low, high = 0.2, 1.0
    box = draw_box(uniforms, cells=cells, area=(low, high), aspect=ASPECT)
    # Each side is off by half a cell at most.
    assert (box.height + 0.5) * (box.width + 0.5) >= low * cells**2
    assert (box.height - 0.5) * (box.width - 0.5) <= high * cells**2
    assert (box.width - 0.5) / (box.height + 0.5) <= 4 / 3
    assert (box.height - 0.5) / (box.width + 0.5) <= 4 / 3


def test_box_that_never_fits_is_the_whole_patch():
    box = draw_box([0.0] * BOX_UNIFORMS, cells=44, area=(1.0, 1.0), aspect=(0.5, 2.0))
    assert box == Box(top=0, left=0, height=44, width=44, cells=44)


def test_later_tries_are_used():
    # Area 1 at aspect 4/3 does not fit; the second try is the least area at aspect 1.
    uniforms = [0.999, 0.999, 0.9, 0.0, 3 / 7, 0.9] + [0.0] * (BOX_UNIFORMS - 6)
    box = draw_box(uniforms, cells=100, area=(0.25, 1.0), aspect=ASPECT)
    assert box == Box(top=0, left=0, height=50, width=50, cells=100)


def test_box_reaches_all_four_edges():
    shape = [0.0, 3 / 7, 0.9] * 10  # a quarter of the area, square
    for u, first in ((0.0, 0), (0.5, 25), (1 - 1e-9, 50)):
        box = draw_box([*shape, u, 0.0], cells=100, area=(0.25, 1.0), aspect=ASPECT)
        assert box == Box(top=first, left=0, height=50, width=50, cells=100)
        box = draw_box([*shape, 0.0, u], cells=100, area=(0.25, 1.0), aspect=ASPECT)
        assert box == Box(top=0, left=first, height=50, width=50, cells=100)


def test_boxes_are_spread_as_released():
    rng = np.random.default_rng(0)
    boxes = [
        draw_box(rng.random(BOX_UNIFORMS).tolist(), cells=264, area=(0.2, 1.0), aspect=ASPECT)
        for _ in range(4000)
    ]
    # The released rule, written again: rejection until the rounded sides fit.
    expected = []
    while len(expected) < 4000:
        area = rng.uniform(0.2, 1.0)
        ratio = rng.uniform(*ASPECT)
        ratio = 1 / ratio if rng.random() < 0.5 else ratio
        width, height = round(264 * (area * ratio) ** 0.5), round(264 * (area / ratio) ** 0.5)
        if max(width, height) <= 264:
            expected.append((width, height))
    widths, heights = np.array(expected).T
    assert np.mean([box.width for box in boxes]) == pytest.approx(widths.mean(), abs=3)
    assert np.std([box.height for box in boxes]) == pytest.approx(heights.std(), abs=2)
    share = np.mean([box.width > box.height for box in boxes])
    assert share == pytest.approx(np.mean(widths > heights), abs=0.03)
    centres = [(box.left + box.width / 2) / 264 for box in boxes]
    assert np.mean(centres) == pytest.approx(0.5, abs=0.01)


@given(
    uniforms=UNIFORMS,
    sides=st.sampled_from([(264, 132, 44), (264, 132), (132, 44), (264,)]),
)
def test_slices_of_all_grids_show_the_same_ground(uniforms, sides):
    box = draw_box(uniforms, cells=common_cells(sides), area=(0.05, 1.0), aspect=ASPECT)
    grounds = {
        tuple(
            edge * 2640 / pixels for part in box.slices(pixels) for edge in (part.start, part.stop)
        )
        for pixels in sides
    }
    assert len(grounds) == 1


def test_crop_is_the_box_of_every_plane_in_place():
    planes = [texture(n, n, seed=n) for n in (264, 44, 44)]
    box = Box(top=3, left=10, height=20, width=31, cells=44)
    fine, *coarse = crop(planes, box=box)
    np.testing.assert_array_equal(fine, planes[0][18:138, 60:246])
    for patch, plane in zip(coarse, planes[1:], strict=True):
        np.testing.assert_array_equal(patch, plane[3:23, 10:41])
    for patch, plane in zip((fine, *coarse), planes, strict=True):
        assert np.shares_memory(patch, plane)


@pytest.mark.parametrize("shape", [(264, 264), (198, 186), (99, 93), (20, 31), (1, 1)])
def test_resize_is_bilinear_with_half_pixel_centres(shape):
    patch = texture(*shape)
    out = np.empty((224, 224), np.uint8)
    resize(patch, out=out)
    # 0.5 for rounding and a little for cv2's 11-bit weights.
    assert np.abs(out - oracle.resize(patch.astype(float), 224)).max() <= 1.0


def test_bicubic_keeps_a_ramp_and_is_sharper():
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (60, 1))
    out = np.empty((120, 120), np.uint8)
    resize(ramp, out=out, interpolation="bicubic")
    inside = out[10:-10, 10:-10]
    assert np.abs(inside - (np.arange(10, 110) * 2 - 1.0)).max() <= 1.0
    step = np.zeros((60, 60), np.uint8)
    step[:, 30:] = 100
    resize(step, out=out, interpolation="bicubic")
    assert out.max() > 100


def test_resize_writes_in_place_into_a_slice():
    buffer = np.full((3, 32, 32), 7, np.uint8)
    resize(np.full((5, 4), 200, np.uint8), out=buffer[1])
    assert (buffer[1] == 200).all()
    assert (buffer[[0, 2]] == 7).all()


SHAPES = {
    "s2c": [(20, 31)] + [(120, 186)] * 3 + [(60, 93)] * 3 + [(120, 186), (60, 93)] + [(20, 31)] * 2
    + [(60, 93)] * 2,
    **{f"{n} bands": [(99, 93)] * n for n in range(1, 10)},
    "tiny": [(1, 1)] * 3 + [(1, 7)] * 4,
}  # fmt: skip


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_bands_together_are_each_band_alone(name, flip):
    whole = [texture(h + 5, w + 9, seed=c) for c, (h, w) in enumerate(SHAPES[name])]
    patches = [each[2:-3, 4:-5] for each in whole]  # rows with a stride, as crops have
    before = [each.copy() for each in whole]
    buffer = np.full((len(patches) + 2, 96, 112), 7, np.uint8)
    resize_bands(patches, out=buffer[1:-1], flip=flip)
    assert (buffer[[0, -1]] == 7).all()
    for each, was in zip(whole, before, strict=True):
        np.testing.assert_array_equal(each, was)
    for patch, plane in zip(patches, buffer[1:-1], strict=True):
        rows = oracle.bilinear_matrix(patch.shape[0], 96)
        columns = oracle.bilinear_matrix(patch.shape[1], 112)
        exact = rows @ patch.astype(float) @ columns.T
        assert np.abs(plane - (exact[:, ::-1] if flip else exact)).max() <= 1.0


@pytest.mark.parametrize("setting", [False, True])
def test_settings_of_cv2_are_put_back(setting):
    before = cv2.ipp.useIPP_NotExact()
    try:
        cv2.ipp.setUseIPP_NotExact(setting)
        kept = cv2.ipp.useIPP_NotExact()  # False where cv2 has no IPP
        out = np.empty((5, 32, 32), np.uint8)
        resize_bands([texture(30, 30)] * 5, out=out)
        assert cv2.ipp.useIPP_NotExact() == kept
        with pytest.raises(cv2.error):
            resize_bands([np.empty((0, 3), np.uint8)], out=out[:1])
        assert cv2.ipp.useIPP_NotExact() == kept
    finally:
        cv2.ipp.setUseIPP_NotExact(before)


def test_flip_commutes_with_resize():
    patch = texture(99, 93)
    one, other = np.empty((2, 224, 224), np.uint8)
    resize(patch[:, ::-1].copy(), out=one)
    resize(patch, out=other)
    assert np.abs(one.astype(int) - other[:, ::-1]).max() <= 1
