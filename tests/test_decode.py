"""Members decode as the general reader and rasterio decode them, however they were learnt."""

import dataclasses
import io

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import geo_tags

from ssl4eo_stream.bands import PRODUCTS, S1, S2C
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.geotiff import Codec, PageContent, read_pages, write
from ssl4eo_stream.shard.form import Form
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.stream.decode import Decoder


def manifest_of(product, *, dtype="uint8"):
    pages = tuple(tuple(product.names[c] for c in grid.channels) for grid in product.grids)
    return Form(product=product.name, pages=pages, dtype=dtype).manifest()


def bands_of(product, *, seed=0, noise=20, dtype=np.uint8):
    """One array per band, rough enough that every strip has its own length."""
    rng = np.random.default_rng(seed)
    arrays = []
    for band in product.bands:
        ramp = np.linspace(0, 150, band.pixels)[:, None] + rng.integers(
            0, noise, (band.pixels, band.pixels)
        )
        arrays.append(ramp.astype(dtype))
    return arrays


def member(product, arrays, *, codec="jpeg:75", lon=10.0):
    """A member as the packer writes it, and where each of its pages ends."""
    contents = [
        PageContent(
            bands=[arrays[c] for c in grid.channels],
            geo=read_geo(lon, grid.pixels),
            description=" ".join(product.names[c] for c in grid.channels),
        )
        for grid in product.grids
    ]
    data = write(contents, codec=Codec.parse(codec))
    ends = [
        max(a + b for a, b in zip(page.strip_offsets, page.strip_lengths, strict=True))
        for page in read_pages(data, name="x")
    ]
    return data, ends


def read_geo(lon, pixels):
    sink = io.BytesIO()
    tifffile.imwrite(sink, np.zeros((2, 2), np.uint8), extratags=geo_tags(lon, 50.0, pixels))
    return read_pages(sink.getvalue(), name="x")[0].geo


def by_rasterio(data, product):
    """Bands in product order through GDAL."""
    planes = [None] * len(product.bands)
    with rasterio.MemoryFile(data) as file:
        for i, grid in enumerate(product.grids, start=1):
            with rasterio.open(f"GTIFF_DIR:{i}:{file.name}") as page:
                for channel, pixels in zip(grid.channels, page.read(), strict=True):
                    planes[channel] = pixels
    return planes


def assert_equal(planes, expected):
    assert len(planes) == len(expected)
    for plane, other in zip(planes, expected, strict=True):
        assert plane.dtype == np.uint8
        assert plane.flags.c_contiguous
        np.testing.assert_array_equal(plane, other)


@pytest.mark.parametrize("codec", ["jpeg:75", "jpeg:98", "zstd"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_first_and_later_members_equal_rasterio(name, codec):
    product = PRODUCTS[name]
    decode = Decoder(manifest_of(product))
    for seed, noise in ((0, 20), (1, 20), (2, 1), (3, 106)):
        data, _ = member(product, bands_of(product, seed=seed, noise=noise), codec=codec, lon=seed)
        assert_equal(decode(data, name="x"), by_rasterio(data, product))


@pytest.mark.parametrize(("product", "dtype"), [(S2C, "uint16"), (S1, "float32")])
def test_source_values_become_bytes(product, dtype):
    arrays = bands_of(product, noise=3000, dtype=dtype)
    data, _ = member(product, arrays, codec="zstd16")
    decode = Decoder(manifest_of(product, dtype=dtype))
    expected = [to_bytes(a, band=band) for a, band in zip(arrays, product.bands, strict=True)]
    for _ in range(2):
        assert_equal(decode(data, name="x"), expected)


@pytest.mark.parametrize("codec", ["jpeg:75", "zstd"])
@pytest.mark.parametrize(
    ("channels", "last_page"),
    [((3, 2, 1), 0), ((7,), 0), ((3, 12, 4), 1), ((0,), 2), (range(13), 2), ((1, 1), 0)],
)
def test_channels_come_in_the_order_wanted_from_a_prefix(channels, last_page, codec):
    decode = Decoder(manifest_of(S2C), channels=channels)
    assert decode.last_page == last_page
    for seed in range(3):
        data, ends = member(S2C, bands_of(S2C, seed=seed), codec=codec)
        expected = [by_rasterio(data, S2C)[c] for c in channels]
        for buffer in (data, data[: ends[last_page]], memoryview(data)[: ends[last_page]]):
            assert_equal(decode(buffer, name="x"), expected)


@pytest.mark.parametrize("learnt", [False, True])
def test_a_shorter_prefix_is_an_error_that_names_the_member(learnt):
    data, ends = member(S2C, bands_of(S2C))
    decode = Decoder(manifest_of(S2C), channels=(1, 2, 3, 7))
    if learnt:
        decode(data, name="x")
    for cut in (ends[0] - 1, ends[0] - 3000, 300, 100, 5, 0):
        with pytest.raises(SourceError, match=r"shard/0000007\.t0\.tif"):
            decode(data[:cut], name="shard/0000007.t0.tif")


MEMBER, _ = member(S1, bands_of(S1))


@settings(max_examples=150, deadline=None)
@given(
    place=st.one_of(st.integers(0, 700), st.integers(0, len(MEMBER) - 1)),
    value=st.integers(0, 255),
)
def test_a_damaged_member_decodes_as_if_it_were_the_first(place, value):
    """Unless the damage is to what pixels do not need, which is only looked at the first time."""
    learnt, fresh = Decoder(manifest_of(S1)), Decoder(manifest_of(S1))
    learnt(MEMBER, name="x")
    damaged = bytearray(MEMBER)
    damaged[place] = value
    results = []
    for decode in (fresh, learnt):
        try:
            results.append([plane.tobytes() for plane in decode(bytes(damaged), name="x")])
        except SourceError as error:
            results.append(str(error))
    sound = [plane.tobytes() for plane in fresh(MEMBER, name="x")]
    assert results[0] == results[1] or (isinstance(results[0], str) and results[1] == sound)


@pytest.mark.parametrize(
    "options",
    [{"byteorder": ">"}, {"rowsperstrip": 64}, {"compression": "zlib"}, {"software": "another"}],
    ids=str,
)
def test_members_of_other_writers_are_read_among_ours(options):
    decode = Decoder(manifest_of(S1))
    ours = bands_of(S1, seed=1)
    data, _ = member(S1, ours)
    expected = by_rasterio(data, S1)
    sink = io.BytesIO()
    how = {"compression": "jpeg", "rowsperstrip": 264, "metadata": None} | options
    tifffile.imwrite(sink, np.stack(ours), photometric="minisblack", planarconfig="separate", **how)
    theirs = tifffile.imread(io.BytesIO(sink.getvalue()))
    for _ in range(3):
        assert_equal(decode(data, name="x"), expected)
        assert_equal(decode(sink.getvalue(), name="x"), list(theirs))


def test_a_band_that_is_not_there_is_an_error():
    data, _ = member(S1, bands_of(S1))
    with pytest.raises(SourceError, match=r"x has no band 3 on page 1.*B4"):
        Decoder(manifest_of(S2C), channels=(3,))(data, name="x")
    pages = (("VV",), ("VH",))
    manifest = dataclasses.replace(manifest_of(S1), pages=pages)
    with pytest.raises(SourceError, match=r"x has no band 1 on page 2.*VH"):
        Decoder(manifest)(data, name="x")
