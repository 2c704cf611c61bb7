"""DN and dB to bytes and back, against exact integers and fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.bands import PRODUCTS, S1, S2C
from ssl4eo_stream.shard.quantize import from_bytes, to_bytes

BANDS = [band for product in PRODUCTS.values() for band in product.bands]


@pytest.mark.parametrize("band", [*S2C.bands, *PRODUCTS["s2a"].bands], ids=lambda b: b.name)
def test_every_dn_follows_the_integer_rule(band):
    dn = np.arange(1 << 16)
    expected = np.minimum(255, (51 * dn + 999) // 2000)
    np.testing.assert_array_equal(to_bytes(dn.astype(np.uint16), band=band), expected)


@given(st.integers(0, 65_535))
def test_the_integer_rule_is_the_nearest_byte(dn):
    exact = Fraction(51 * dn, 2000)
    byte = int(to_bytes(np.array([dn], np.uint16), band=S2C.bands[0])[0])
    if exact <= 255:
        assert abs(byte - exact) <= Fraction(1, 2)
    else:
        assert byte == 255


@given(st.floats(-80, 40, width=32))
def test_decibels_are_clipped_and_rounded(value):
    for band in S1.bands:
        byte = int(to_bytes(np.array([value], np.float32), band=band)[0])
        steps = (Fraction(value) - Fraction(band.offset)) / Fraction(band.scale)
        assert abs(byte - min(max(steps, 0), 255)) <= Fraction(1, 2) + Fraction(1, 10**9)


@pytest.mark.parametrize("band", BANDS, ids=lambda b: b.name)
def test_bytes_survive_the_way_there_and_back(band):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    values = from_bytes(stored, band=band)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(to_bytes(values, band=band), stored)


def test_brighter_pixels_are_never_darker_bytes():
    for band, values in [
        (S2C.bands[0], np.arange(1 << 16, dtype=np.uint16)),
        (S1.bands[0], np.linspace(-60, 30, 10_000, dtype=np.float32)),
    ]:
        assert (np.diff(to_bytes(values, band=band).astype(int)) >= 0).all()


def test_mean_and_two_deviations_span_the_bytes_of_sentinel_1():
    for band in S1.bands:
        ends = np.array([band.mean - 2 * band.std, band.mean, band.mean + 2 * band.std])
        assert to_bytes(ends, band=band).tolist() in ([0, 127, 255], [0, 128, 255])
