"""Reading a data set back: every kind of damage is found and named, wherever it lies."""

import hashlib
import json
import random
import re
import shutil
import tracemalloc
from dataclasses import replace

import damage
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fault_server import FOREVER, Fault, http_server
from trees import members_of, write_tar, write_tree

from ssl4eo_stream.commands.shard import main
from ssl4eo_stream.errors import ShardError, StorageError
from ssl4eo_stream.retry import RetryPolicy
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.manifest import Index, Manifest
from ssl4eo_stream.shard.reindex import reindex
from ssl4eo_stream.shard.verify import verify
from ssl4eo_stream.tars import RANGE_BYTES

IDS = (0, 1, 5, 6, 9)  # shards 0, 1 and 2 of four ids
ALL = damage.SHARDS | damage.REST
LISTED = {"an extra tar", "a killed build"}
"""What is found where a folder can be listed."""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Five Sentinel-1 locations of two dates and the tree that they are from; read-only."""
    root = tmp_path_factory.mktemp("built")
    write_tree(root / "tree", "s1", IDS)
    build(root / "tree", root / "s1", product="s1", codec="zstd", samples_per_shard=4)
    return root


@pytest.fixture
def folder(built, tmp_path):
    """A copy of the data set beside its tree."""
    (tmp_path / "tree").symlink_to(built / "tree")
    return shutil.copytree(built / "s1", tmp_path / "s1")


def told(found):
    return "\n".join(f"{each.file}: {each.problem}. {each.remedy}." for each in found.problems)


@pytest.mark.parametrize("what", ALL)
def test_damage_is_found_and_named(folder, what):
    assert not verify(folder).problems
    do, message = ALL[what]
    do(folder)
    found = verify(folder)
    assert re.search(message, told(found)), told(found)
    shards = {"s1-000001.tar", "s1-000002.tar"} if what == "two shards" else {"s1-000001.tar"}
    assert {*found.bad.values()} == (shards if what in damage.SHARDS else set())
    if what in damage.SHARDS:
        assert {each.file for each in found.problems} == shards
    assert all(each.remedy for each in found.problems)


@pytest.mark.parametrize(
    "what", ["a bit of a member", "a header's owner", "two shards", "a cut shard", "a cut index",
             "a stale manifest", "an extra tar"],
)  # fmt: skip
def test_damage_is_found_on_a_bucket(s3, folder, what, monkeypatch):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    do, message = ALL[what]
    do(folder)
    url = s3.upload(folder, f"verify/{what.replace(' ', '-')}")
    found = verify(url, workers=2 if what == "two shards" else 1)
    assert re.search(message, told(found)), told(found)
    assert found.bad == verify(folder).bad
    assert [each.kind for each in found.problems] == [e.kind for e in verify(folder).problems]


@pytest.mark.parametrize("what", ALL)
def test_damage_is_found_over_http(folder, what):
    do, message = ALL[what]
    do(folder)
    with http_server(folder) as server:
        if what in ("no manifest", "a cut manifest"):
            with pytest.raises(ShardError, match="can't be listed, so that nothing tells which"):
                verify(server.url)
            return
        found = verify(server.url)
    if what in LISTED:
        assert not found.problems
        return
    assert re.search(message, told(found)), told(found)
    assert found.bad == verify(folder).bad


def test_any_number_of_processes_says_the_same(folder):
    damage.REST["an extra tar"][0](folder)
    damage.SHARDS["two shards"][0](folder)
    read = []
    one = verify(folder, on_start=read.append, on_shard=read.append)
    two = verify(folder, workers=2)
    assert replace(two, index=None) == replace(one, index=None)
    sizes = [path.stat().st_size for path in sorted(folder.glob("s1-00000?.tar"))]
    assert read[1:] == [*sizes, 0]
    assert one.bytes_read == sum(sizes)


def test_every_byte_is_fetched_once(built):
    with http_server(built / "s1") as server:
        assert not verify(server.url).problems
        asked = [name for name, header in server.ranges if name.endswith(".tar") and header]
    assert sorted(asked) == ["s1-000000.tar", "s1-000001.tar", "s1-000002.tar"]


def test_storage_that_fails_names_the_shard_and_the_others_are_read(folder):
    with http_server(folder) as server:
        server.faults.append(Fault("status", code=403, times=FOREVER, only="s1-000001"))
        server.cut = 1
        found = verify(server.url)
    (problem,) = found.problems
    assert (problem.file, found.bad) == ("s1-000001.tar", {1: "s1-000001.tar"})
    assert "it can't be read: Cannot read" in problem.problem
    assert "403" in problem.problem


def test_a_dead_server_is_one_error(folder, monkeypatch):
    quick = replace(RetryPolicy(), give_up_seconds=0.2)
    monkeypatch.setattr("ssl4eo_stream.store.RetryPolicy", lambda: quick)
    with http_server(folder) as server:
        server.faults.append(Fault("status", times=FOREVER, only="manifest"))
        with pytest.raises(StorageError, match=r"manifest\.json: gave up after"):
            verify(server.url)


def test_many_problems_of_a_shard_are_cut_short(tmp_path):
    write_tree(tmp_path / "tree", "s1", range(8), dates=2)
    build(tmp_path / "tree", tmp_path / "out", product="s1", codec="zstd")
    path = tmp_path / "out" / "s1-000000.tar"
    data = bytearray(path.read_bytes())
    index = Index.from_parquet((tmp_path / "out" / "index.parquet").read_bytes(), url="x")
    for offset in index.offsets:
        data[offset + 3000] ^= 1
    path.write_bytes(data)
    problems = verify(tmp_path / "out").problems
    assert len(problems) == 8
    assert problems[-1].problem == "and 10 more such problems"


@pytest.mark.parametrize("name", ["index.parquet", "manifest.json"])
def test_no_damage_of_index_or_manifest_is_a_traceback(built, name):
    good = (built / "s1" / name).read_bytes()
    rng = random.Random(0)
    read = Index.from_parquet if name == "index.parquet" else Manifest.from_json
    refused = 0
    for _ in range(400):
        data = bytearray(good[: rng.choice([len(good), rng.randrange(len(good))])])
        for _ in range(rng.choice([1, 3, 30]) if data else 0):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            read(bytes(data), url="x")
        except ShardError:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize(("column", "what"), [("page_end", "-1"), ("page_crc32c", "+1")])
def test_pages_that_end_elsewhere_than_the_index_says(tmp_path, column, what):
    write_tree(tmp_path, "s2a", [3, 4], dates=1)
    manifest = build(tmp_path, tmp_path / "out", product="s2a", codec="jpeg:75").manifest
    assert not verify(tmp_path / "out").problems
    path = tmp_path / "out" / "index.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[1][1] += int(what)
    at = table.schema.get_field_index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(at, field, pa.array(values, field.type)), path)
    (problem,) = verify(tmp_path / "out").problems  # the shard is the manifest's
    assert (problem.file, problem.problem) == ("index.parquet", "its sha256 is not the manifest's")
    (tmp_path / "out" / "manifest.json").write_bytes(
        replace(manifest, index_sha256=hashlib.sha256(path.read_bytes()).hexdigest()).to_json()
    )
    (problem,) = verify(tmp_path / "out").problems
    assert re.match(r"member 0000004\.t0\.tif: its pages do not (end|sum up)", problem.problem)


def test_an_index_of_uneven_lists_is_refused(folder):
    table = pq.read_table(folder / "index.parquet")
    rows = [[1]] + [[]] * (table.num_rows - 1)
    at = table.schema.get_field_index("page_end")
    column = pa.array(rows, table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), column), folder / "x.parquet")
    with pytest.raises(ShardError, match=r"x: page_end has not 0 values for every date"):
        Index.from_parquet((folder / "x.parquet").read_bytes(), url="x")


def test_an_index_of_other_shards_without_a_manifest_is_not_believed(folder, tmp_path):
    write_tree(tmp_path / "other", "s1", [3, 4, 8])
    build(tmp_path / "other", tmp_path / "out", product="s1", codec="zstd", samples_per_shard=4)
    shutil.copy(tmp_path / "out" / "index.parquet", folder)
    (folder / "manifest.json").unlink()
    found = verify(folder)
    assert [each.file for each in found.problems] == ["manifest.json", "index.parquet"]
    assert "of other shards" in found.problems[1].problem


def test_an_unfinished_build_and_an_empty_folder_say_so(folder, tmp_path):
    (folder / "manifest.json").unlink()
    (folder / ".parts").mkdir()
    with pytest.raises(ShardError, match=r"holds no finished shards: .*Run ssl4eo-shard build"):
        verify(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShardError, match="holds no finished shards"):
        verify(tmp_path / "empty")


def test_memory_is_bounded_by_the_range_not_by_the_shard(built, tmp_path):
    members = members_of(built / "s1" / "s1-000000.tar")
    write_tar(tmp_path / "x.tar", members | {"big.bin": bytes(8 * RANGE_BYTES)})
    reindex(str(tmp_path))
    tracemalloc.start()
    try:
        assert not verify(tmp_path).problems
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * RANGE_BYTES


def test_the_command_writes_json_and_exits_with_1(folder, tmp_path, capsys):
    out = tmp_path / "problems.json"
    arguments = ["verify", str(folder), "--json", str(out), "--workers", "1"]
    assert main(arguments) == 0
    assert json.loads(out.read_text()) == []
    damage.SHARDS["a missing shard"][0](folder)
    assert main(arguments) == 1
    (problem,) = json.loads(out.read_text())
    assert sorted(problem) == ["file", "kind", "problem", "remedy"]
    assert (problem["file"], problem["kind"]) == ("s1-000001.tar", "shard")
    told = capsys.readouterr()
    assert f"{folder}/s1-000001.tar: it is missing. Run ssl4eo-shard repair" in told.err
    assert re.search(r"shards 3, locations 5, .* bad shards 1, problems 1\n$", told.out)
    assert main([*arguments[:3], str(tmp_path / "nowhere" / "x.json")]) == 1
    assert "can't be written" in capsys.readouterr().err
