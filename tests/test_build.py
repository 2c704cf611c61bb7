"""Builds that are stopped, damaged, or run again: what is finished is kept, the rest is made."""

import json
import shutil

import pytest
from trees import write_tree

from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.destination import Destination
from ssl4eo_stream.shard.parts import read_parts
from ssl4eo_stream.shard.verify import verify

IDS = (0, 1, 5, 6, 9)  # shards 0, 1 and 2 of four ids


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Five Sentinel-1 locations of two dates; read-only."""
    root = tmp_path_factory.mktemp("tree")
    write_tree(root, "s1", IDS)
    return root


@pytest.fixture
def own_tree(tree, tmp_path):
    """A copy of the tree that a test may break."""
    return shutil.copytree(tree, tmp_path / "own_tree")


def pack(source, dest, **options):
    settings = {"product": "s1", "codec": "zstd", "samples_per_shard": 4, "workers": 0}
    return build(source, dest, **settings | options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_finished_data_set_is_kept_as_it_is(tree, tmp_path):
    pack(tree, tmp_path)
    before, times = contents(tmp_path), [p.stat().st_mtime_ns for p in tmp_path.glob("*.tar")]
    built = pack(tree, tmp_path)
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

    pack(tree, tmp_path / "fresh")
    try:
        pack(tree, tmp_path / "out", on_shard=interrupt if stop_after else lambda _: None)
    except PowerCutError:
        assert not (tmp_path / "out" / "manifest.json").exists()
        with pytest.raises(ShardError, match="no finished shards"):
            verify(tmp_path / "out")
    built = pack(tree, tmp_path / "out")
    assert built.kept == (stop_after or 3)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("damage", ["tar cut", "tar gone", "part cut", "part gone"])
def test_nothing_half_written_is_taken_for_finished(tree, tmp_path, damage):
    def interrupt(shard):
        if shard.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(tree, tmp_path / "out", on_shard=interrupt)
    what, how = damage.split()
    path = tmp_path / "out" / {"tar": "s1-000001.tar", "part": ".parts/s1-000001.tar.parquet"}[what]
    assert 1 in read_parts(Destination.at(tmp_path / "out"), "s1")
    if how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    else:
        path.unlink()
    assert 1 not in read_parts(Destination.at(tmp_path / "out"), "s1")
    built = pack(tree, tmp_path / "out")
    assert (built.built, built.kept) == (2, 1)
    pack(tree, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_lost_index_or_tar_of_a_finished_data_set_is_made_again(tree, tmp_path):
    pack(tree, tmp_path)
    before = contents(tmp_path)
    (tmp_path / "index.parquet").unlink()
    assert pack(tree, tmp_path).built == 3
    (tmp_path / "s1-000001.tar").unlink()
    assert pack(tree, tmp_path).built == 1
    assert contents(tmp_path) == before


def test_temporary_files_of_a_killed_build_go(tree, tmp_path):
    (tmp_path / ".s1-000001.tar.tmp-123").write_bytes(b"half")
    pack(tree, tmp_path)
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

    source = shutil.copytree(tree, tmp_path / "tree")
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


@pytest.mark.parametrize("finished", [True, False])
def test_what_an_older_release_left_is_not_touched_and_says_what_to_do(tree, tmp_path, finished):
    def interrupt(_):
        if not finished:
            raise KeyboardInterrupt

    try:
        pack(tree, tmp_path, on_shard=interrupt)
    except KeyboardInterrupt:
        assert not finished
    path = tmp_path / ("manifest.json" if finished else ".parts/settings.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))
    before = contents(tmp_path)
    with pytest.raises(ShardError, match=r"schema version 1; .*Run ssl4eo-shard index"):
        pack(tree, tmp_path)
    assert contents(tmp_path) == before


def test_what_a_killed_writer_left_is_gone_once_all_is_there(tmp_path):
    write_tree(tmp_path / "SRC", "s2c", range(2), dates=1)
    dest = tmp_path / "out"
    dest.mkdir()
    left, other = dest / ".s2c-000000.tar.tmp-elsewhere-7", dest / ".s1-000000.tar.tmp-elsewhere-7"
    left.write_bytes(b"half")
    other.write_bytes(b"half")
    build(tmp_path / "SRC", dest, product="s2c")
    assert not left.exists()
    assert other.exists(), "another product's may be at work"
