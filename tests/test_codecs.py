"""The codec study: what its rows are of, how its errors come about, and its picture."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from codec_plot import draw
from trees import write_tree

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.geotiff import Codec
from ssl4eo_stream.shard.source import read_location, read_patch

# By its path: a module of the standard library has the same name.
path = Path(__file__).parent.parent / "benchmarks" / "codecs.py"
spec = importlib.util.spec_from_file_location("codec_study", path)
study = importlib.util.module_from_spec(spec)
spec.loader.exec_module(study)


@pytest.fixture(scope="module", params=["s2c", "s1"])
def found(request, tmp_path_factory):
    """The variants of one patch of a product."""
    product = PRODUCTS[request.param]
    tree = tmp_path_factory.mktemp("tree")
    write_tree(tree, product.name, [0], dates=1)
    location = read_location(tree / product.name / "0000000", product=product)
    return study.variants(product, [read_patch(location.acquisitions[0], product=product)])


def line_of(variant, codec):
    row = study.Row(variant, Codec.parse(codec))
    row.measure()
    row.measure()
    return row.line()


def test_variants_are_those_that_differ(found):
    pairs = [(each.scaling, each.grid) for each in found]
    if found[0].product.name == "s1":
        assert pairs == [("dB", "native")]
        return
    assert pairs == [(scaling, grid) for scaling in ("reflectance", "mean±2σ")
                     for grid in ("native", "264")]  # fmt: skip
    native, upsampled = found[0].patches[0], found[1].patches[0]
    assert [band.shape[0] for band in native.bands][:5] == [44, 264, 264, 264, 132]
    for coarse, band in zip(native.bands, upsampled.bands, strict=True):
        expected = cv2.resize(coarse, (264, 264), interpolation=cv2.INTER_LINEAR_EXACT)
        assert np.array_equal(band, expected)
    band = found[2].product.bands[0]
    assert band.offset == pytest.approx(1612.9 - 2 * 791.0)
    assert band.offset + 255 * band.scale == pytest.approx(1612.9 + 2 * 791.0)


def test_source_values_have_no_error_and_bytes_at_most_half_a_step(found):
    for variant in found:
        exact, bytes_, lossy = (line_of(variant, codec) for codec in ("zstd16", "zstd", "jpeg:75"))
        assert (exact["mean error"], exact["clipped %"]) == (0, 0)
        assert exact["scaling"] == "source values"
        for band in variant.product.bands:
            assert 0 < bytes_[f"error {band.name}"] <= band.scale / 2
            assert lossy[f"error {band.name}"] > bytes_[f"error {band.name}"]
        assert lossy["kilobytes"] < bytes_["kilobytes"] < exact["kilobytes"]
        assert {exact["equal to rasterio"], lossy["equal to rasterio"]} == {"yes"}
        if variant.grid == "264":
            assert lossy["mean error seen at 10 m"] == pytest.approx(lossy["mean error"], rel=0.02)


def test_errors_are_means_over_what_bytes_hold(found):
    product, patch = found[0].product, found[0].patches[0]
    band = product.bands[0]
    sources = [source.astype(np.float64) for source in patch.bands]
    sources[0][:] = band.offset + 10 * band.scale
    sources[0][:11] = band.offset + 300 * band.scale
    values = [source + 3.0 for source in sources]
    values[0][:11] = 0
    errors, held = study.errors_of(values, sources, product=product)
    assert errors[0] == pytest.approx(3, rel=1e-4)
    assert held[0] == pytest.approx(1 - 11 / len(sources[0]))


def test_bytes_become_values_in_the_order_of_bands(found):
    product = found[0].product
    order = [channel for grid in product.grids for channel in grid.channels]
    stored = [np.full((2, 2), channel, np.uint8) for channel in order]
    for channel, (value, band) in enumerate(
        zip(study.values_of(stored, product=product), product.bands, strict=True)
    ):
        assert value[0, 0] == pytest.approx(channel * band.scale + band.offset, rel=1e-5)


def test_floats_are_resampled_too():
    ramp = np.broadcast_to(np.arange(132, dtype=np.float32), (132, 132))
    position = (np.arange(264) + 0.5) / 2 - 0.5
    assert study.fine(ramp)[0] == pytest.approx(
        np.interp(position, np.arange(132), ramp[0]), abs=1e-3
    )


def test_the_picture_shows_every_codec(found, tmp_path):
    if found[0].product.name == "s1":
        pytest.skip("the picture is of Sentinel-2")
    rows = [line_of(variant, codec) for variant in found for codec in ("jpeg:90", "zstd")]
    path = tmp_path / "codecs.svg"
    draw({"rows": rows}, path)
    first = path.read_bytes()
    assert first.startswith(b"<?xml")
    rows[0]["decode ms"] *= 2
    draw({"rows": rows}, path)
    assert path.read_bytes() != first


def test_the_range_of_qualities_is_that_of_the_study():
    qualities = [Codec.parse(text).quality for text in study.CODECS if text.startswith("jpeg")]
    assert (min(qualities), max(qualities)) == (50, 98)
