"""Shards as a whole: tar, index, manifest, reproducibility, and locations that are left out."""

import gc
import io
import json
import shutil
import tarfile

import geopandas
import google_crc32c
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import webdataset
from trees import NAMES, write_tree

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.geotiff import decode_sample, read_pages
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.manifest import Index, Manifest
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.shard.verify import verify

IDS = (0, 1, 5, 6, 9)  # shards 0, 1 and 2 of four ids
S1 = PRODUCTS["s1"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Five Sentinel-1 locations of two dates; read-only."""
    root = tmp_path_factory.mktemp("tree")
    return root, write_tree(root, "s1", IDS)


@pytest.fixture
def own_tree(tree, tmp_path):
    """A copy of the tree that a test may break."""
    return shutil.copytree(tree[0], tmp_path / "own_tree")


def pack(source, dest, **options):
    settings = {"product": "s1", "codec": "zstd", "samples_per_shard": 4, "workers": 0}
    return build(source, dest, **settings | options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_members_of_a_shard_come_in_order_and_hold_the_quantized_pixels(tree, tmp_path):
    root, pixels = tree
    built = pack(root, tmp_path / "out")
    manifest = built.manifest
    assert [(s.number, s.locations) for s in manifest.shards] == [(0, 2), (1, 2), (2, 1)]
    assert (manifest.locations, manifest.patches, built.built, built.kept) == (5, 10, 3, 0)
    names = []
    for entry in manifest.shards:
        with tarfile.open(tmp_path / "out" / entry.name) as tar:
            for info in tar:
                names.append(info.name)
                assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
    assert names == [f"{i:07d}.{end}" for i in IDS for end in ("json", "t0.tif", "t1.tif")]
    with tarfile.open(tmp_path / "out" / "s1-000001.tar") as tar:
        data = tar.extractfile("0000006.t1.tif").read()
    (page,) = read_pages(data, name="x")
    assert page.description == "s1 VV VH"
    for channel, band in enumerate(S1.bands):
        np.testing.assert_array_equal(
            decode_sample(data, page, channel, name="x"),
            to_bytes(pixels[6][1][channel], band=band),
        )


def test_the_index_points_at_every_member_and_opens_as_geoparquet(tree, tmp_path):
    pack(tree[0], tmp_path)
    rows = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"{i:07d}" for i in IDS]
    for row in rows:
        tar = (tmp_path / f"s1-{row['shard']:06d}.tar").read_bytes()
        assert (row["page_end"], row["page_crc32c"]) == ([], [])  # of one page: the member's own
        with tarfile.open(fileobj=io.BytesIO(tar)) as members:
            for date in range(2):
                data = members.extractfile(f"{row['id']}.t{date}.tif").read()
                start, length = row["member_offset"][date], row["member_length"][date]
                assert tar[start : start + length] == data
                assert google_crc32c.value(data) == row["member_crc32c"][date]
        assert tuple(row["acquisition"]) == NAMES["s1"][:2]
    frame = geopandas.read_parquet(tmp_path / "index.parquet")
    assert frame.geometry.iloc[0].coords[0] == pytest.approx((10.0, 50.0))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the gc
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_lists_every_key_with_its_members(tree, tmp_path):
    pack(tree[0], tmp_path)
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    gc.collect()
    assert [sample["__key__"] for sample in samples] == [f"{i:07d}" for i in IDS]
    for sample in samples:
        assert {"json", "t0.tif", "t1.tif"} <= sample.keys()
        fields = json.loads(sample["json"])
        assert fields["id"] == sample["__key__"]
        assert fields["product"] == "s1"
        assert fields["dates"][0] == {
            "acquisition": NAMES["s1"][0], "time": "2020-03-29T00:15:15Z", "cloud_percent": 3.5,
            "orbitProperties_pass": "ASCENDING",
        }  # fmt: skip


@pytest.mark.parametrize("product", ["s2a", "s2c"])
def test_lossless_shards_of_sentinel_2_keep_every_dn_of_every_date(tmp_path, product):
    pixels = write_tree(tmp_path, product, [511, 512], dates=4)
    built = build(tmp_path, tmp_path / "out", product=product, codec="zstd16")
    assert (built.manifest.dtype, set(built.manifest.scale)) == ("uint16", {1.0})
    assert [entry.name[-7:] for entry in built.manifest.shards] == ["000.tar", "001.tar"]
    with tarfile.open(tmp_path / "out" / f"{product}-000001.tar") as tar:
        for date in range(4):
            file = io.BytesIO(tar.extractfile(f"0000512.t{date}.tif").read())
            with tifffile.TiffFile(file) as tiff:
                for grid, page in zip(PRODUCTS[product].grids, tiff.pages, strict=True):
                    expected = np.stack([pixels[512][date][c] for c in grid.channels])
                    np.testing.assert_array_equal(page.asarray(), expected)
    assert verify(tmp_path / "out").problems == ()


@pytest.mark.parametrize("codec", ["jpeg:75", "zstd", "zstd16"])
def test_the_beginning_of_a_member_is_enough_for_its_first_pages(tmp_path, codec):
    write_tree(tmp_path, "s2a", [1, 2, 3], dates=2)
    (tmp_path / "s2a" / "0000003" / NAMES["s2a"][0]).rename(tmp_path / "one date less")
    manifest = pack(tmp_path, tmp_path / "out", product="s2a", codec=codec).manifest
    index = Index.from_parquet((tmp_path / "out" / "index.parquet").read_bytes(), url="x")
    assert index.page_ends.shape == index.page_crc32c.shape == (5, 3)
    np.testing.assert_array_equal(index.page_ends[:, -1], index.lengths)
    np.testing.assert_array_equal(index.page_crc32c[:, -1], index.crc32c)
    tar = (tmp_path / "out" / manifest.shards[0].name).read_bytes()
    for offset, ends, sums in zip(index.offsets, index.page_ends, index.page_crc32c, strict=True):
        pages = read_pages(tar[offset : offset + ends[-1]], name="x")
        for count, (end, crc32c) in enumerate(zip(ends, sums, strict=True), start=1):
            beginning = tar[offset : offset + end]
            assert google_crc32c.value(beginning) == crc32c
            assert read_pages(beginning, name="x", limit=count) == pages[:count]
            for page in pages[:count]:
                decode_sample(beginning, page, page.samples - 1, name="x")
            # none of the next page, and not a byte more than the last strip
            assert end == pages[count - 1].strip_offsets[-1] + pages[count - 1].strip_lengths[-1]
        assert 0.5 < ends[0] / ends[-1] < 0.8


def test_locations_may_have_different_numbers_of_dates(own_tree, tmp_path):
    shutil.rmtree(own_tree / "s1" / "0000005" / NAMES["s1"][0])
    manifest = pack(own_tree, tmp_path / "out").manifest
    assert manifest.patches == 9
    index = Index.from_parquet((tmp_path / "out" / "index.parquet").read_bytes(), url="x")
    assert np.diff(index.first_date).tolist() == [2, 2, 1, 2, 2]


def test_bytes_are_the_same_from_any_number_of_processes_and_when_made_again(tree, tmp_path):
    for name, workers in (("one", 1), ("four", 4), ("again", 0)):
        pack(tree[0], tmp_path / name, workers=workers, codec="jpeg:90")
    assert contents(tmp_path / "one") == contents(tmp_path / "four") == contents(tmp_path / "again")
    assert "s1-000002.tar" in contents(tmp_path / "one")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_location_stops_the_build_or_is_left_out_and_listed(own_tree, tmp_path, workers):
    bad = own_tree / "s1" / "0000005" / NAMES["s1"][1] / "VH.tif"
    good = bad.read_bytes()
    bad.write_bytes(good[:5000])
    with pytest.raises(SourceError, match=r"0000005.*VH\.tif"):
        pack(own_tree, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").glob(".*tmp*"))
    built = pack(own_tree, tmp_path / "out", workers=workers, on_missing="skip")
    assert built.manifest.locations == 4
    (line,) = (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "0000005"
    assert "VH.tif" in json.loads(line)["reason"]
    assert verify(tmp_path / "out").problems == ()
    bad.write_bytes(good)
    built = pack(own_tree, tmp_path / "out", workers=workers)
    assert (built.built, built.manifest.locations) == (1, 5)
    assert not (tmp_path / "out" / "skipped.jsonl").exists()


def test_a_shard_of_broken_locations_alone_is_not_written(own_tree, tmp_path):
    shutil.rmtree(own_tree / "s1" / "0000009")
    (own_tree / "s1" / "0000009").mkdir()
    built = pack(own_tree, tmp_path / "out", on_missing="skip")
    assert [entry.number for entry in built.manifest.shards] == [0, 1]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.tar")) == [
        "s1-000000.tar", "s1-000001.tar"
    ]  # fmt: skip


def test_nothing_that_can_be_packed_is_an_error(tmp_path):
    (tmp_path / "s1").mkdir()
    with pytest.raises(SourceError, match="no location to pack: 0 folders"):
        pack(tmp_path, tmp_path / "out")
    (tmp_path / "s1" / "0000001").mkdir()
    with pytest.raises(SourceError, match=r"none of 1 locations.*no acquisition"):
        pack(tmp_path, tmp_path / "out", on_missing="skip")


def test_ids_of_one_product_alone_are_an_error_or_listed(own_tree, tmp_path, caplog):
    for path in ("s2c/0000001", "s2c/0000002"):
        (own_tree / path).mkdir(parents=True)
    with pytest.raises(SourceError, match=r"lacks 1 locations.*0000002.*--on-missing skip"):
        pack(own_tree, tmp_path / "out")
    pack(own_tree, tmp_path / "out", on_missing="skip")
    assert json.loads((tmp_path / "out" / "skipped.jsonl").read_text()) == {
        "id": "0000002", "reason": "only in s2c"
    }  # fmt: skip
    assert "s2c lacks 4 locations" in caplog.text


def test_a_list_chooses_locations_and_names_what_is_not_there(tree, tmp_path):
    ids = tmp_path / "ids.csv"
    ids.write_text("id\n1\n9\n")
    assert pack(tree[0], tmp_path / "out", locations=ids).manifest.locations == 2
    ids.write_text("id\n1\n9\n77\n")
    with pytest.raises(SourceError, match=r"lacks 1 locations.*0000077"):
        pack(tree[0], tmp_path / "out", locations=ids)


def test_the_manifest_says_how_to_turn_bytes_into_values(tree, tmp_path):
    pack(tree[0], tmp_path)
    manifest = Manifest.from_json((tmp_path / "manifest.json").read_bytes(), url="x")
    assert manifest.scale == tuple(band.scale for band in S1.bands)
    assert manifest.offset == tuple(band.offset for band in S1.bands)
    assert (manifest.bands, manifest.pages, manifest.dtype) == (
        ("VV", "VH"), (("VV", "VH"),), "uint8"
    )  # fmt: skip
