"""Shards as a whole: tar, index, manifest, resuming, reproducibility, verifying."""

import gc
import io
import json
import re
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
from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.geotiff import decode_sample, read_pages
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.manifest import Index, Manifest
from ssl4eo_stream.shard.parts import read_part
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
    assert verify(tmp_path / "out")[1] == []


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


def test_a_finished_data_set_is_kept_as_it_is(tree, tmp_path):
    pack(tree[0], tmp_path)
    before, times = contents(tmp_path), [p.stat().st_mtime_ns for p in tmp_path.glob("*.tar")]
    built = pack(tree[0], tmp_path)
    assert (built.built, built.kept) == (0, 3)
    assert contents(tmp_path) == before
    assert [p.stat().st_mtime_ns for p in tmp_path.glob("*.tar")] == times


def test_only_shards_with_added_or_removed_locations_are_made_again(own_tree, tmp_path):
    pack(own_tree, tmp_path / "out")
    shutil.copytree(own_tree / "s1" / "0000005", own_tree / "s1" / "0000007")
    shutil.rmtree(own_tree / "s1" / "0000009")
    built = pack(own_tree, tmp_path / "out")
    assert (built.built, built.kept, built.manifest.locations) == (1, 1, 5)
    assert not (tmp_path / "out" / "s1-000002.tar").exists()
    pack(own_tree, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_a_build_that_was_stopped_goes_on_and_ends_the_same(tree, tmp_path, stop_after):
    class PowerCutError(Exception):
        pass

    done = []

    def interrupt(shard):
        done.append(shard)
        if len(done) >= stop_after:
            raise PowerCutError

    pack(tree[0], tmp_path / "fresh")
    try:
        pack(tree[0], tmp_path / "out", on_shard=interrupt if stop_after else lambda _: None)
    except PowerCutError:
        assert not (tmp_path / "out" / "manifest.json").exists()
        with pytest.raises(ShardError, match="no finished shards"):
            verify(tmp_path / "out")
    built = pack(tree[0], tmp_path / "out")
    assert built.kept == (stop_after or 3)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("damage", ["tar cut", "tar gone", "part cut", "part gone"])
def test_nothing_half_written_is_taken_for_finished(tree, tmp_path, damage):
    def interrupt(shard):
        if shard.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tree[0], tmp_path / "out", on_shard=interrupt)
    what, how = damage.split()
    path = tmp_path / "out" / {"tar": "s1-000001.tar", "part": ".parts/s1-000001.tar.parquet"}[what]
    assert read_part(tmp_path / "out", "s1", 1)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
    assert read_part(tmp_path / "out", "s1", 1) is None
    built = pack(tree[0], tmp_path / "out")
    assert (built.built, built.kept) == (2, 1)
    pack(tree[0], tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_lost_index_or_tar_of_a_finished_data_set_is_made_again(tree, tmp_path):
    pack(tree[0], tmp_path)
    before = contents(tmp_path)
    (tmp_path / "index.parquet").unlink()
    assert pack(tree[0], tmp_path).built == 3
    (tmp_path / "s1-000001.tar").unlink()
    assert pack(tree[0], tmp_path).built == 1
    assert contents(tmp_path) == before


def test_temporary_files_of_a_killed_build_go(tree, tmp_path):
    (tmp_path / ".s1-000001.tar.tmp-123").write_bytes(b"half")
    pack(tree[0], tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("options", "setting"),
    [({"codec": "jpeg:90"}, "codec zstd, and codec jpeg:90"),
     ({"samples_per_shard": 8}, "samples_per_shard 4, and samples_per_shard 8"),
     ({"product": "s2c"}, "product s1, and product s2c")],
)  # fmt: skip
@pytest.mark.parametrize("finished", [True, False])
def test_shards_of_other_settings_are_left_alone(tree, tmp_path, options, setting, finished):
    def interrupt(_):
        if not finished:
            raise KeyboardInterrupt

    source = shutil.copytree(tree[0], tmp_path / "tree")
    (source / "s2c" / "0000000").mkdir(parents=True)
    try:
        pack(source / "s1", tmp_path / "out", locations=None, on_shard=interrupt,
             on_missing="skip")  # fmt: skip
    except KeyboardInterrupt:
        assert not finished
    before = contents(tmp_path / "out")
    with pytest.raises(ShardError, match=f"{setting} was asked for.*Choose another DEST"):
        pack(source, tmp_path / "out", on_missing="skip", **options)
    assert contents(tmp_path / "out") == before


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
    assert verify(tmp_path / "out")[1] == []
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


def test_verify_finds_a_flipped_byte_anywhere(tree, tmp_path):
    manifest = pack(tree[0], tmp_path).manifest
    assert verify(tmp_path, workers=2)[1] == []
    index = Index.from_parquet((tmp_path / "index.parquet").read_bytes(), url="x")
    path = tmp_path / manifest.shards[1].name
    good = path.read_bytes()
    offset = int(index.offsets[index.first_date[2] + 1])  # location 5, date 1
    damages = {
        offset + 3000: "0000005.t1.tif at byte.*crc32c",
        offset - 512: "members are not|damaged",
        700: "JSON|0000005.json",
        len(good) - 1: "sha256",
    }
    for place, message in damages.items():
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        _, problems = verify(tmp_path)
        assert any("sha256" in problem for problem in problems)
        assert re.search(message, "\n".join(problems)), place
    assert verify(tmp_path, workers=2)[1] == problems


def test_verify_finds_cut_missing_and_left_over_files(tree, tmp_path):
    pack(tree[0], tmp_path)
    (tmp_path / "s1-000000.tar").unlink()
    path = tmp_path / "s1-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    shutil.copy(tmp_path / "s1-000002.tar", tmp_path / "s1-000099.tar")
    (tmp_path / ".s1-000007.tar.tmp-1").touch()
    (tmp_path / ".parts").mkdir()
    text = "\n".join(verify(tmp_path)[1])
    for what in (
        "s1-000000.tar: can't be read",
        "s1-000001.tar: .* bytes, the manifest has",
        "s1-000099.tar: not in the manifest",
        "tmp-1: left over",
        "parts: left over",
    ):
        assert re.search(what, text), what
    assert len(text.splitlines()) == 5


def test_verify_finds_an_index_that_is_not_the_manifest_s(tree, tmp_path):
    pack(tree[0], tmp_path / "out")
    ids = tmp_path / "ids.csv"
    ids.write_text("0\n1\n5\n6\n")
    pack(tree[0], tmp_path / "fewer", locations=ids)
    shutil.copy(tmp_path / "fewer" / "index.parquet", tmp_path / "out" / "index.parquet")
    problems = "\n".join(verify(tmp_path / "out")[1])
    assert "index.parquet: sha256" in problems
    assert "4 locations and 8 patches" in problems
    assert "s1-000002.tar: its 3 members are not the 0" in problems


def test_the_manifest_says_how_to_turn_bytes_into_values(tree, tmp_path):
    pack(tree[0], tmp_path)
    manifest = Manifest.from_json((tmp_path / "manifest.json").read_bytes(), url="x")
    assert manifest.scale == tuple(band.scale for band in S1.bands)
    assert manifest.offset == tuple(band.offset for band in S1.bands)
    assert (manifest.bands, manifest.pages, manifest.dtype) == (
        ("VV", "VH"), (("VV", "VH"),), "uint8"
    )  # fmt: skip
