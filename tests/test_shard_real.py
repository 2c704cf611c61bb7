"""Published files and real satellite pixels through the packer, and back through other readers."""

import io
import itertools
import json
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import tifffile
from zarr_shards import write_tars

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.geotiff import decode_sample, read_pages
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.shard.reindex import reindex
from ssl4eo_stream.shard.repair import repair
from ssl4eo_stream.shard.stats import stats
from ssl4eo_stream.shard.verify import verify


def unpack(tar, folder):
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.11.4 on
    tar.extractall(folder, **safe)


@pytest.fixture(scope="module")
def towns(real_data, tmp_path_factory):
    """48 locations of two dates, L1C, cut from full scenes."""
    folder = tmp_path_factory.mktemp("towns")
    with tarfile.open(real_data / "ssl4eo" / "s2c_2dates_oscd.tar") as tar:
        unpack(tar, folder)
    return folder


@pytest.fixture(scope="module")
def four_seasons(real_data, tmp_path_factory):
    """One L2A location of four dates."""
    folder = tmp_path_factory.mktemp("seasons")
    with tarfile.open(real_data / "ssl4eo" / "s2a_4seasons_boadella.tar") as tar:
        unpack(tar, folder)
    return folder


def test_statistics_are_numpys_of_all_pixels(towns, tmp_path):
    build(towns, tmp_path, product="s2c", codec="zstd16", samples_per_shard=8, workers=0)
    _, found = stats(str(tmp_path), workers=2)
    for band, each in zip(PRODUCTS["s2c"].bands, found, strict=True):
        paths = towns.glob(f"s2c/*/*/{band.name}.tif")
        values = np.stack([rasterio.open(path).read(1) for path in paths]).astype(np.float64)
        assert each.count == values.size
        assert (each.mean, each.std) == pytest.approx((values.mean(), values.std()), rel=1e-9)
        assert (each.low, each.high) == (values.min(), values.max())


def test_a_shard_of_real_pixels_is_mended_byte_for_byte(towns, tmp_path):
    build(towns, tmp_path, product="s2c", codec="jpeg:75", samples_per_shard=16, workers=0)
    good = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    path = tmp_path / "s2c-000001.tar"
    damaged = bytearray(good[path.name])
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    (tmp_path / "s2c-000002.tar").unlink()
    assert {*verify(tmp_path).bad.values()} == {"s2c-000001.tar", "s2c-000002.tar"}
    assert repair(tmp_path, source=str(towns)).left.problems == ()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == good


def members(dest):
    """Every GeoTIFF of a data set with its row of the index and its date."""
    for row in pq.read_table(dest / "index.parquet").to_pylist():
        (shard,) = dest.glob(f"*-{row['shard']:06d}.tar")
        data = shard.read_bytes()
        for date, start in enumerate(row["member_offset"]):
            yield row, date, data[start : start + row["member_length"][date]]


def source_pixels(folder, row, date, product):
    """The published pixels of one member, read by rasterio."""
    (place,) = folder.glob(f"*{int(row['id']):06d}")
    for band in product.bands:
        with rasterio.open(place / row["acquisition"][date] / f"{band.name}.tif") as source:
            yield source.read(1)


@pytest.mark.parametrize("product", ["s1", "s2a", "s2c"])
@pytest.mark.parametrize("codec", ["zstd", "zstd16"])
def test_published_files_come_back_exactly(real_data, tmp_path, product, codec):
    root = real_data / "ssl4eo" / "genuine"
    built = build(root, tmp_path, product=product, codec=codec)
    assert (built.manifest.locations, built.manifest.patches) == (1, 2)
    assert verify(tmp_path).problems == ()
    spec = PRODUCTS[product]
    for row, date, data in members(tmp_path):
        stored = {}
        for page, grid in zip(read_pages(data, name="x"), spec.grids, strict=True):
            for sample, channel in enumerate(grid.channels):
                stored[channel] = decode_sample(data, page, sample, name="x")
        for channel, pixels in enumerate(source_pixels(root / product, row, date, spec)):
            expected = to_bytes(pixels, band=spec.bands[channel]) if codec == "zstd" else pixels
            assert stored[channel].dtype == expected.dtype
            np.testing.assert_array_equal(stored[channel], expected)


def test_an_index_made_again_from_real_shards_is_the_builder_s(towns, real_data, tmp_path):
    genuine = real_data / "ssl4eo" / "genuine"
    for product, source in (("s1", genuine), ("s2a", genuine), ("s2c", towns)):
        folder = tmp_path / product
        build(source, folder, product=product, codec="jpeg:75", samples_per_shard=10)
        files = [folder / "manifest.json", folder / "index.parquet"]
        expected = [path.read_bytes() for path in files]
        for path in files:
            path.unlink()
        reindex(str(folder), samples_per_shard=10)
        assert [path.read_bytes() for path in files] == expected


def test_published_metadata_is_kept(real_data, tmp_path):
    build(real_data / "ssl4eo" / "genuine", tmp_path / "s1", product="s1")
    build(real_data / "ssl4eo" / "genuine", tmp_path / "s2c", product="s2c")
    with tarfile.open(tmp_path / "s1" / "s1-000000.tar") as tar:
        fields = json.load(tar.extractfile("0000200.json"))
    assert [date["orbitProperties_pass"] for date in fields["dates"]] == ["DESCENDING", "ASCENDING"]
    assert fields["dates"][0]["cloud_percent"] is None
    (row,) = pq.read_table(tmp_path / "s2c" / "index.parquet").to_pylist()
    assert all(0 <= cloud < 10 for cloud in row["cloud_percent"])
    assert [str(time.date()) for time in row["time"]] == ["2020-06-04", "2020-08-23"]


def test_a_download_of_the_later_scripts_is_read(real_data, tmp_path):
    built = build(real_data / "ssl4eo" / "genuine_style", tmp_path, product="s2c")
    assert (built.manifest.locations, built.manifest.patches) == (1, 1)
    (row,) = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert row["id"] == "0000000"
    assert row["cloud_percent"][0] is not None


def test_four_seasons_come_in_order_of_time(four_seasons, tmp_path):
    built = build(four_seasons, tmp_path, product="s2a", codec="jpeg:75")
    assert built.manifest.patches == 4
    (row,) = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert row["time"] == sorted(row["time"])
    assert all(np.diff(row["time"]) > np.timedelta64(1, "D"))


def test_members_of_quality_75_are_small(towns, tmp_path):
    built = build(towns, tmp_path, product="s2c", codec="jpeg:75", samples_per_shard=16)
    lengths = [len(data) for _, _, data in members(tmp_path)]
    assert len(lengths) == built.manifest.patches == 96
    assert np.mean(lengths) <= 55_000


def test_jpeg_members_decode_the_same_in_three_readers(towns, tmp_path):
    build(towns, tmp_path, product="s2c", codec="jpeg:90")
    sizes = [(4, 264, 264), (6, 132, 132), (3, 44, 44)]
    for row, date, data in itertools.islice(members(tmp_path), 0, None, 16):
        pages = read_pages(data, name="x")
        ours = [
            np.stack([decode_sample(data, page, s, name="x") for s in range(page.samples)])
            for page in pages
        ]
        assert [pixels.shape for pixels in ours] == sizes
        path = f"/vsitar/{tmp_path}/s2c-000000.tar/{row['id']}.t{date}.tif"
        for number, pixels in enumerate(ours, start=1):
            with rasterio.open(f"GTIFF_DIR:{number}:{path}") as source:
                np.testing.assert_array_equal(source.read(), pixels)
                assert source.crs.to_epsg() == 4326
                lon, lat = source.xy(source.height / 2, source.width / 2, offset="ul")
            # bands of 60 m were cut to half a pixel, 0.0003 degrees
            assert (lon, lat) == pytest.approx(row_point(row), abs=6e-4)
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            for page, pixels in zip(file.pages, ours, strict=True):
                np.testing.assert_array_equal(page.asarray(), pixels)


def row_point(row):
    """Longitude and latitude of an index row."""
    return tuple(np.frombuffer(row["geometry"], "<f8", offset=5))


def test_jpeg_of_quality_90_stays_close_to_the_pixels(towns, tmp_path):
    build(towns, tmp_path, product="s2c", codec="jpeg:90")
    spec = PRODUCTS["s2c"]
    errors = []
    for row, date, data in itertools.islice(members(tmp_path), 0, None, 16):
        source = list(source_pixels(towns / "s2c", row, date, spec))
        for page, grid in zip(read_pages(data, name="x"), spec.grids, strict=True):
            for sample, channel in enumerate(grid.channels):
                stored = decode_sample(data, page, sample, name="x").astype(int)
                errors.append(stored - to_bytes(source[channel], band=spec.bands[channel]))
    assert np.mean([np.abs(error).mean() for error in errors]) < 2.0


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize(("product", "source"), [("s2c", "towns"), ("s2a", "four_seasons")])
def test_v11_of_real_pixels(request, tmp_path, product, source, offset):
    """Bands that were repeated up to 10 m come back as they were; the offset is found out."""
    tree = request.getfixturevalue(source)
    bands = PRODUCTS[product].bands
    pixels = {
        int(place.name): [
            [tifffile.imread(date / f"{band.name}.tif") for band in bands]
            for date in sorted(place.iterdir())
        ]
        for place in sorted((tree / product).iterdir())[:20]
    }
    write_tars(tmp_path / "in", product, pixels, per_tar=17, offset=offset)
    how = {"product": product, "codec": "zstd16", "release": "v1.1"}
    with pytest.raises(SourceError, match=rf"% of the pixels .* Say --dn-offset {offset};"):
        build(tmp_path / "in", tmp_path / "out", dn_offset=1000 - offset, **how)
    build(tmp_path / "in", tmp_path / "out", dn_offset=offset, **how)
    for row, date, data in members(tmp_path / "out"):
        for page, grid in zip(read_pages(data, name="x"), PRODUCTS[product].grids, strict=True):
            for k, c in enumerate(grid.channels):
                read = decode_sample(data, page, k, name="x")
                np.testing.assert_array_equal(read, pixels[int(row["id"])][date][c])
