"""Index and manifest of tars that are there already: the builder's own, and other people's."""

import json
import shutil
import tarfile
import tracemalloc

import geopandas
import google_crc32c
import hypothesis
import numpy as np
import pyarrow.parquet as pq
import pytest
from fault_server import http_server
from hypothesis import strategies as st
from trees import members_of, write_tar, write_tree

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.errors import ShardError, StorageError
from ssl4eo_stream.geotiff import Codec, PageContent, write
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.manifest import Index, Manifest
from ssl4eo_stream.shard.reindex import reindex
from ssl4eo_stream.shard.verify import verify
from ssl4eo_stream.tars import RANGE_BYTES

IDS = (0, 1, 5, 6, 9)  # shards 0, 1 and 2 of four ids
FILES = ("manifest.json", "index.parquet")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Five Sentinel-1 locations of two dates, as three shards; read-only."""
    root = tmp_path_factory.mktemp("built")
    write_tree(root / "tree", "s1", IDS)
    build(root / "tree", root / "s1", product="s1", codec="jpeg:90", samples_per_shard=4)
    return root / "s1"


@pytest.fixture
def folder(built, tmp_path):
    """A copy of the shards alone."""
    folder = tmp_path / "s1"
    folder.mkdir()
    for tar in built.glob("*.tar"):
        shutil.copy(tar, folder)
    return folder


def both(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def index_of(folder):
    return Index.from_parquet((folder / "index.parquet").read_bytes(), url="x")


@pytest.mark.parametrize("product", ["s1", "s2a", "s2c"])
@pytest.mark.parametrize("codec", ["jpeg:75", "jpeg:90", "zstd", "zstd16"])
def test_the_builder_s_own_files_come_back_byte_for_byte(tmp_path, product, codec):
    write_tree(tmp_path, product, [0, 7, 8])
    build(tmp_path, tmp_path / "out", product=product, codec=codec, samples_per_shard=8)
    expected = both(tmp_path / "out")
    for name in FILES:
        (tmp_path / "out" / name).unlink()
    reindex(str(tmp_path / "out"))
    assert both(tmp_path / "out") == expected


def test_any_number_of_processes_makes_the_same(built, folder):
    read = []
    done = reindex(f"{folder}/", workers=2, on_start=read.append, on_shard=read.append)
    assert both(folder) == both(built)
    assert read[0] == sum(read[1:]) == sum(shard.bytes for shard in done.manifest.shards)


def test_a_data_set_of_an_older_release_says_how_to_go_on_and_then_does(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "old")
    expected = both(folder)
    fields = json.loads(expected["manifest.json"]) | {"schema_version": 1}
    (folder / "manifest.json").write_text(json.dumps(fields))
    table = pq.read_table(folder / "index.parquet").drop_columns(["page_end", "page_crc32c"])
    pq.write_table(table, folder / "index.parquet")
    problems = {each.file: f"{each.problem}. {each.remedy}" for each in verify(folder).problems}
    assert (
        "has schema version 1; this release reads 2. Run ssl4eo-shard index" in problems[FILES[0]]
    )
    with pytest.raises(ShardError, match="Run ssl4eo-shard index on its folder"):
        index_of(folder)
    reindex(str(folder))
    assert both(folder) == expected
    assert verify(folder).problems == ()


def test_an_older_manifest_tells_what_tars_leave_open(folder, tmp_path, caplog):
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "s1-000000.tar", alone)  # ids 0 and 1: any size from 2 fits
    assert reindex(str(alone)).manifest.samples_per_shard == 512
    old = json.loads((alone / "manifest.json").read_text())
    old |= {"samples_per_shard": 7, "scale": [1.5, 2.5], "offset": [-40.0, -50.0]}
    (alone / "manifest.json").write_text(json.dumps(old))
    manifest = reindex(str(alone)).manifest
    assert (manifest.samples_per_shard, manifest.scale) == (7, (1.5, 2.5))
    assert not caplog.text
    old["shards"][0]["sha256"] = "0" * 64
    (alone / "manifest.json").write_text(json.dumps(old))
    assert reindex(str(alone), samples_per_shard=64).manifest.samples_per_shard == 64
    assert "s1-000000.tar is not the one that the older manifest.json lists" in caplog.text
    (alone / "manifest.json").write_text("{")
    assert reindex(str(alone)).manifest.samples_per_shard == 512
    assert "manifest.json is not read" in caplog.text


def test_a_size_that_names_and_ids_contradict_is_an_error(folder):
    with pytest.raises(ShardError, match=r"not of number = id // 8: they follow 4 to 4"):
        reindex(str(folder), samples_per_shard=8)


def test_what_an_unfinished_build_left_is_gone_and_the_build_goes_on(tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    write_tree(tmp_path, "s1", IDS)
    how = {"product": "s1", "codec": "zstd", "samples_per_shard": 4}
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, tmp_path / "out", on_shard=interrupt, **how)
    assert reindex(str(tmp_path / "out")).manifest.locations == 2
    assert verify(tmp_path / "out").problems == ()
    assert build(tmp_path, tmp_path / "out", **how).kept == 1


@hypothesis.given(data=st.data())
@hypothesis.settings(
    max_examples=15, deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_tars_of_any_layout_give_the_same_locations(built, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("foreign")
    names = data.draw(st.sampled_from(["train-{}.tar", "{}.tar", "part_{}_x.tar"]), label="names")
    prefix = data.draw(st.sampled_from(["", "./", "s1/", "a" * 120 + "/ü/"]), label="prefix")
    forms = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]
    extra = {f"{prefix}README.md": b"x" * 700, f"{prefix}0000001.t0.jpg": b"", "t0.tif": b"?"}
    expected = {}
    for tar in sorted(built.glob("*.tar")):
        members = members_of(tar)
        expected |= {name: each for name, each in members.items() if name.endswith(".tif")}
        order = data.draw(st.permutations([*members.items(), *extra.items()]), label=tar.name)
        write_tar(
            folder / names.format(tar.stem[-6:]),
            [(name if name in extra else prefix + name, each) for name, each in order],
            form=data.draw(st.sampled_from(forms)),
            folders=data.draw(st.sampled_from([(), ("s1",), ("s1", "s1/deep")])),
        )
    done = reindex(str(folder))
    manifest, index = done.manifest, index_of(folder)
    assert (manifest.samples_per_shard, manifest.locations, manifest.patches) == (0, 5, 10)
    assert {name: sorted(each) for name, each in done.ignored.items()} == {
        shard.name: sorted(extra) for shard in manifest.shards
    }
    files = {each.number: (folder / each.name).read_bytes() for each in manifest.shards}
    found = {}
    for row in range(len(index)):
        for date, j in enumerate(range(index.first_date[row], index.first_date[row + 1])):
            start, length = index.offsets[j], index.lengths[j]
            member = files[index.shards[row]][start : start + length]
            found[f"{index.ids[row]:07d}.t{date}.tif"] = member
            assert google_crc32c.value(member) == index.crc32c[j]
    assert found == expected
    assert verify(folder).problems == ()
    if names == "part_{}_x.tar":
        assert [each.number for each in manifest.shards] == [0, 1, 2]


def test_members_without_json_lie_where_their_georeference_says(built, tmp_path):
    members = members_of(built / "s1-000000.tar")
    alone = {name: data for name, data in members.items() if name.endswith(".tif")}
    write_tar(tmp_path / "x.tar", alone)
    reindex(str(tmp_path))
    frame = geopandas.read_parquet(tmp_path / "index.parquet")
    assert [frame.geometry.iloc[0].x, frame.geometry.iloc[0].y] == pytest.approx([10.0, 50.0])
    row = pq.read_table(tmp_path / "index.parquet").to_pylist()[0]
    assert (row["acquisition"], row["time"]) == (["", ""], [None, None])
    assert row["cloud_percent"] == [None, None]
    bands = [np.zeros((264, 264), np.uint8)] * 2
    page = PageContent(bands=bands, geo={}, description="s1 VV VH")
    nowhere = write([page], codec=Codec.parse("zstd"))
    write_tar(tmp_path / "x.tar", {"7.t0.tif": nowhere})
    with pytest.raises(ShardError, match=r"x\.tar: location 0000007 has neither lon and lat"):
        reindex(str(tmp_path))
    write_tar(tmp_path / "x.tar", {"7.json": b'{"lon": 1, "lat": 2}', "7.t0.tif": nowhere})
    assert reindex(str(tmp_path)).manifest.locations == 1


def test_a_location_in_two_shards_or_products_in_one_folder_are_errors(folder, tmp_path):
    shutil.copy(folder / "s1-000001.tar", folder / "s1-000007.tar")
    with pytest.raises(
        ShardError, match=r"0000005 is in s1-000001\.tar and in s1-000007\.tar, and 1"
    ):
        reindex(str(folder))
    write_tree(tmp_path / "tree", "s2a", [4000], dates=1)
    build(tmp_path / "tree", tmp_path / "s2a", product="s2a")
    shutil.copy(tmp_path / "s2a" / "s2a-000007.tar", folder / "s1-000007.tar")
    with pytest.raises(ShardError, match=r"s1-000007\.tar uint8 s2a of pages B2 B3 B4 B8 \|"):
        reindex(str(folder))


@pytest.mark.parametrize("at", ["header", "end", "block", "nothing"])
def test_a_cut_or_damaged_tar_is_never_taken_for_a_whole_one(folder, at):
    path = folder / "s1-000001.tar"
    data, index = path.read_bytes(), []
    with tarfile.open(path) as tar:
        index = [(info.offset, info.offset_data, info.size) for info in tar]
    header, start, size = index[-1]
    end = start + -(-size // 512) * 512
    broken, message = {
        "header": (data[:header] + b"\1" + data[header + 1 :], f"no tar header at byte {header}"),
        "end": (data[: start + 100], "is no tar, or cut"),
        "block": (data[:end], f"no empty block ends the tar at byte {end}"),
        "nothing": (b"", "is no tar, or cut"),
    }[at]
    path.write_bytes(broken)
    with pytest.raises(ShardError, match=rf"s1-000001\.tar.* {message}"):
        reindex(str(folder))


def test_shards_on_a_bucket_or_a_web_server_are_indexed_from_there(
    s3, built, folder, tmp_path, monkeypatch
):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    url = s3.upload(folder, "reindex/s1")
    s3.client().put_object(Bucket="ssl4eo", Key="reindex/s1/deeper/s1-000009.tar", Body=b"no")
    with pytest.raises(StorageError, match=r"Give --output DIR .*upload both"):
        reindex(url)
    reindex(url, output=tmp_path / "new" / "bucket")
    assert both(tmp_path / "new" / "bucket") == both(built)
    with http_server(folder) as server:
        server.cut = server.unavailable = 1
        with pytest.raises(ShardError, match=r"can't be listed over HTTP\. Name the tars"):
            reindex(server.url, output=tmp_path / "web")
        reindex(server.url + "/s1-{000000..000002}.tar", output=tmp_path / "web", workers=1)
    assert both(tmp_path / "web") == both(built)


def test_the_loader_streams_other_people_s_shards_like_its_own(built, tmp_path):
    for number, tar in enumerate(sorted(built.glob("*.tar"), reverse=True)):
        members = list(members_of(tar).items())
        write_tar(tmp_path / f"part-{number}.tar", reversed(members), form=tarfile.PAX_FORMAT)
    reindex(str(tmp_path))
    seen = []
    for folder in (tmp_path, built):
        loader = StreamLoader(str(folder), views=MoCoViews(size=24), batch_size=5, seed=1)
        (batch,) = loader
        order = np.argsort(batch.keys)
        seen.append([sorted(batch.keys), *(view.numpy()[order] for view in batch.views)])
    assert seen[0][0] == seen[1][0]
    for ours, theirs in zip(seen[0][1:], seen[1][1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_memory_is_bounded_by_the_range_not_by_the_shard(folder):
    path = folder / "s1-000001.tar"
    write_tar(path, members_of(path) | {"big.bin": bytes(8 * RANGE_BYTES)})
    tracemalloc.start()
    try:
        reindex(str(folder))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * RANGE_BYTES  # one that is read, the one before, and what is cut out of it


def test_patterns_name_some_of_the_tars_and_mistakes_say_so(folder, tmp_path):
    done = reindex(f"{folder}/s1-{{000000,000002}}.tar", output=tmp_path / "some")
    assert [each.number for each in done.manifest.shards] == [0, 2]
    manifest = Manifest.from_json((tmp_path / "some" / "manifest.json").read_bytes(), url="x")
    assert manifest == done.manifest
    for pattern, message in (("s1-{0..1.tar", "Unbalanced"), ("s1-{000001,000001}.tar", "twice")):
        with pytest.raises(ShardError, match=message):
            reindex(f"{folder}/{pattern}", output=tmp_path)
    with pytest.raises(StorageError, match=r"s1-000003\.tar"):
        reindex(f"{folder}/s1-{{000002..000003}}.tar", output=tmp_path)
    with pytest.raises(ShardError, match=r"holds no \*\.tar"):
        reindex(str(tmp_path / "some"))
