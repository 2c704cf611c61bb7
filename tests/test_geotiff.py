"""The strip reader, the writer and the georeference, against tifffile and rasterio."""

import io
import itertools

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from rasterio import Affine
from trees import geo_tags

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.geotiff import (
    Codec,
    PageContent,
    centre,
    decode_sample,
    read_band,
    read_pages,
    write,
)

rng = np.random.default_rng(0)
PIXELS = {
    "uint8": rng.integers(0, 256, (50, 40), np.uint8),
    "uint16": rng.integers(0, 12_000, (50, 40), np.uint16),
    "int16": rng.integers(-9_000, 9_000, (50, 40), np.int16),
    "float32": rng.normal(-12, 5, (50, 40)).astype(np.float32),
}
UTM_KEYS = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)


def tiff(pixels, **options):
    sink = io.BytesIO()
    tifffile.imwrite(sink, pixels, photometric="minisblack", metadata=None, **options)
    return sink.getvalue()


def geo_of(*tags):
    return read_pages(tiff(PIXELS["uint8"], extratags=tags), name="x")[0].geo


def all_bands(data):
    return [
        np.stack([decode_sample(data, page, s, name="x") for s in range(page.samples)])
        for page in read_pages(data, name="x")
    ]


@pytest.mark.parametrize(
    ("dtype", "compression", "predictor"),
    [
        *itertools.product(PIXELS, (None, "zlib", "deflate", "lzw", "zstd"), (1,)),
        *itertools.product(("uint8", "uint16", "int16"), ("zlib", "deflate", "lzw", "zstd"), (2,)),
        *itertools.product(("float32",), ("zlib", "deflate", "lzw", "zstd"), (3,)),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("rows", [50, 15])
def test_strips_are_read_as_tifffile_wrote_them(dtype, order, compression, predictor, rows):
    pixels = PIXELS[dtype]
    data = tiff(
        pixels, byteorder=order, compression=compression, predictor=predictor, rowsperstrip=rows
    )
    page = read_pages(data, name="x")[0]
    whole = compression is None  # strips that lie one behind another, unpacked, are as one
    assert (page.width, page.height) == (40, 50)
    assert page.rows_per_strip == (50 if whole else rows)
    read, _ = read_band(data, name="x")
    assert read.dtype == pixels.dtype
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize(
    "options",
    [{"tiled": True, "blockxsize": 16, "blockysize": 16}, {"BIGTIFF": "YES"},
     {"compress": "packbits"}, {"compress": "lzw", "predictor": 2},
     {"compress": "deflate", "blockysize": 7}],
    ids=str,
)  # fmt: skip
def test_bands_written_by_gdal_are_read_in_any_layout(options):
    grid = {"crs": "EPSG:32633", "transform": Affine(10, 0, 499_800, 0, -10, 5_600_250)}
    profile = {"driver": "GTiff", "height": 50, "width": 40, "count": 1, "dtype": "uint16"}
    with rasterio.MemoryFile() as file:
        with file.open(**profile, **grid, **options) as target:
            target.write(PIXELS["uint16"], 1)
        pixels, geo = read_band(file.read(), name="x")
    np.testing.assert_array_equal(pixels, PIXELS["uint16"])
    # easting 500 km is the zone's middle meridian, 15° east
    assert centre(geo, 40, 50) == pytest.approx((15.0, 50.5519), abs=1e-3)


def test_memoryviews_are_read_in_place_into_the_given_array():
    data = memoryview(tiff(PIXELS["uint16"], compression="zlib"))
    out = np.zeros((50, 40), np.uint16)
    page = read_pages(data, name="x")[0]
    assert decode_sample(data, page, 0, name="x", out=out) is out
    np.testing.assert_array_equal(out, PIXELS["uint16"])


@pytest.mark.parametrize("codec", ["jpeg:75", "jpeg:90", "jpeg:100", "zstd", "zstd16"])
def test_what_is_written_reads_the_same_in_three_readers(codec):
    content = [
        PageContent(
            bands=[PIXELS["uint8"][:size, :size] for _ in range(count)],
            geo=geo_of(*geo_tags(10.0, 50.0, size)),
            description=f"s2c page of {size}",
        )
        for size, count in ((40, 4), (20, 6), (8, 3))
    ]
    data = write(content, codec=Codec.parse(codec))
    assert data == write(content, codec=Codec.parse(codec))
    pages = read_pages(data, name="x")
    assert [(p.width, p.samples, p.description) for p in pages] == [
        (40, 4, "s2c page of 40"), (20, 6, "s2c page of 20"), (8, 3, "s2c page of 8")
    ]  # fmt: skip
    assert all(len(page.strip_offsets) == page.samples for page in pages)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for ours, page, written in zip(all_bands(data), file.pages, content, strict=True):
            np.testing.assert_array_equal(ours, page.asarray())
            if not codec.startswith("jpeg"):
                np.testing.assert_array_equal(ours, np.stack(written.bands))
    with rasterio.MemoryFile(data) as file:
        for i, (ours, page) in enumerate(zip(all_bands(data), pages, strict=True), start=1):
            with rasterio.open(f"GTIFF_DIR:{i}:{file.name}") as source:
                np.testing.assert_array_equal(ours, source.read())
                assert source.crs.to_epsg() == 4326
                middle = source.xy(page.height / 2, page.width / 2, offset="ul")
                assert middle == pytest.approx(centre(page.geo, page.width, page.height))


def test_a_prefix_is_enough_for_the_pages_that_it_holds():
    content = [
        PageContent(
            bands=[PIXELS["uint8"][:n, :n]] * 2, geo=geo_of(*geo_tags(1, 2, n)), description=""
        )
        for n in (40, 20, 8)
    ]
    data = write(content, codec=Codec.parse("jpeg:90"))
    pages = read_pages(data, name="x")
    for count, page in enumerate(pages[:2], start=1):
        end = page.strip_offsets[1] + page.strip_lengths[1]
        assert read_pages(data[:end], name="x", limit=count) == pages[:count]
        with pytest.raises(SourceError, match="x"):
            read_pages(data[:end], name="x", limit=count + 1)
    assert read_pages(data, name="x", limit=9) == pages
    bare = read_pages(data, name="x", georeference=False)
    assert [page.geo for page in bare] == [{}, {}, {}]
    assert pages[0].geo


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_zstd16_keeps_every_value_in_three_readers(dtype):
    special = PIXELS[dtype].copy()
    special[0, :2] = np.iinfo(dtype).max if dtype == "uint16" else np.finfo(dtype).tiny
    content = PageContent(bands=[PIXELS[dtype], special], geo={}, description="")
    data = write([content], codec=Codec.parse("zstd16"))
    expected = np.stack(content.bands)
    np.testing.assert_array_equal(all_bands(data)[0], expected)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), expected)
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.MemoryFile(data) as file,
        file.open() as source,
    ):
        np.testing.assert_array_equal(source.read(), expected)


@given(cut=st.integers(0, 2_000))
def test_a_cut_file_is_an_error_that_names_it_and_never_pixels(cut):
    data = tiff(PIXELS["uint16"], compression="zlib", rowsperstrip=15)
    with pytest.raises(SourceError, match=r"some/B2\.tif"):
        read_band(data[: min(cut, len(data) - 1)], name="some/B2.tif")


@given(place=st.integers(0, 1_999), value=st.integers(0, 255))
def test_a_damaged_file_is_read_or_an_error_that_names_it(place, value):
    data = bytearray(tiff(PIXELS["uint16"], compression="zlib", rowsperstrip=15))
    data[place] = value
    try:
        read_band(bytes(data), name="some/B2.tif")
    except SourceError as error:
        assert "some/B2.tif" in str(error)  # noqa: PT017 - most damage to pixels goes unseen


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 273, 277, 278, 279])
@pytest.mark.parametrize("kind", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_entries_of_another_type_or_count_never_escape_as_anything_else(tag, kind, count):
    data = bytearray(tiff(PIXELS["uint16"], compression="zlib", rowsperstrip=15))
    entries = range(10, 10 + 12 * int.from_bytes(data[8:10], "little"), 12)
    (place,) = [at for at in entries if int.from_bytes(data[at : at + 2], "little") == tag]
    data[place + 2 : place + 8] = kind.to_bytes(2, "little") + count.to_bytes(4, "little")
    try:
        read_band(bytes(data), name="some/B2.tif")
    except SourceError as error:
        assert "some/B2.tif" in str(error)  # noqa: PT017 - some of these are read all the same


@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_cut_tiles_are_an_error_too(tile):
    data = tiff(PIXELS["uint16"], compression="zlib", tile=tile)
    with pytest.raises(SourceError, match=r"B2\.tif"):
        read_band(data[: len(data) // 2], name="B2.tif")


def test_a_damaged_jpeg_strip_is_an_error():
    content = PageContent(bands=[PIXELS["uint8"]] * 2, geo={}, description="")
    data = bytearray(write([content], codec=Codec.parse("jpeg:90")))
    page = read_pages(bytes(data), name="x")[0]
    start, length = page.strip_offsets[1], page.strip_lengths[1]
    data[start + length // 2 : start + length] = bytes(length - length // 2)
    np.testing.assert_equal(decode_sample(bytes(data), page, 0, name="x").shape, (50, 40))
    with pytest.raises(SourceError, match="strip 0 of band 1"):
        decode_sample(bytes(data), page, 1, name="x")


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_file_of_several_bands_is_not_a_source_band(planar):
    data = tiff(np.zeros((3, 8, 8) if planar == "separate" else (8, 8, 3), np.uint8),
                planarconfig=planar)  # fmt: skip
    with pytest.raises(SourceError, match="3 bands"):
        read_band(data, name="x")


@pytest.mark.parametrize("data", [b"", b"II*\0", b"not a picture at all", b"II*\0" + bytes(60)])
def test_what_is_no_tiff_is_an_error(data):
    with pytest.raises(SourceError, match="x"):
        read_band(data, name="x")


@pytest.mark.parametrize("keys", [(), geo_tags(0, 0, 40)[2][3]])
def test_centre_of_geographic_tags(keys):
    assert centre(geo_of(*geo_tags(-3.5, 12.25, 40, keys=keys or (1, 1, 0, 0))), 40, 40) == (
        pytest.approx((-3.5, 12.25))
    )


def test_centre_of_a_rotated_grid_and_of_pixels_tied_at_their_middle():
    matrix = (0.0, 0.1, 0.0, 5.0, 0.1, 0.0, 0.0, 45.0, *(0.0,) * 8)
    assert centre(geo_of((34264, "d", 16, matrix, True)), 40, 20) == pytest.approx((6.0, 47.0))
    point = (1, 1, 0, 2, 1024, 0, 1, 2, 1025, 0, 1, 2)
    tags = geo_tags(0.0, 0.0, 40, keys=point, step=1.0)
    assert centre(geo_of(*tags), 40, 40) == pytest.approx((-0.5, 0.5))


def test_centre_of_utm_agrees_with_rasterio():
    tags = geo_tags(500_000, 5_600_000, 40, keys=UTM_KEYS, step=10.0)
    with rasterio.MemoryFile(tiff(PIXELS["uint8"][:40], extratags=tags)) as file:  # noqa: SIM117
        with file.open() as source:
            left, bottom, right, top = rasterio.warp.transform_bounds(
                source.crs, "EPSG:4326", *source.bounds
            )
    lon, lat = centre(geo_of(*tags), 40, 40)
    assert lon == pytest.approx((left + right) / 2, abs=1e-6)
    assert lat == pytest.approx((bottom + top) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("geo", "message"),
    [([], "no georeference"), (geo_tags(0, 0, 40, keys=(*UTM_KEYS[:-1], 32767)), "EPSG")],
)
def test_a_centre_that_can_not_be_known_is_an_error(geo, message):
    with pytest.raises(SourceError, match=message):
        centre(geo_of(*geo), 40, 40)


@pytest.mark.parametrize("text", ["zstd", "zstd16", "jpeg:1", "jpeg:90", "jpeg:100"])
def test_codecs_are_written_as_they_are_read(text):
    assert str(Codec.parse(text)) == text


@pytest.mark.parametrize("text", ["", "jpeg", "jpeg:0", "jpeg:101", "jpeg:x", "jpeg:-1", "zstd:3"])
def test_an_unknown_codec_names_the_forms(text):
    with pytest.raises(ValueError, match=r"jpeg:Q.*zstd.*zstd16"):
        Codec.parse(text)
