"""Mending a data set: what was damaged comes back byte for byte, and nothing else is touched."""

import json
import shutil
import tarfile

import damage
import pytest
from damage import contents
from fault_server import http_server
from trees import write_tree

from ssl4eo_stream.commands.shard import main
from ssl4eo_stream.errors import ShardError, SourceError, StorageError
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.rebuild import Settings
from ssl4eo_stream.shard.repair import repair
from ssl4eo_stream.shard.verify import verify

IDS = (0, 1, 5, 6, 9)  # shards 0, 1 and 2 of four ids
BUILT = Settings(product="s1", codec="zstd", samples_per_shard=4)
LOST = {"no manifest", "a cut manifest"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Five Sentinel-1 locations of two dates and the tree that they are from; read-only."""
    root = tmp_path_factory.mktemp("built")
    write_tree(root / "tree", "s1", IDS)
    build(root / "tree", root / "s1", product="s1", codec="zstd", samples_per_shard=4)
    with tarfile.open(root / "s1_grd.tar", "w") as tar:
        tar.add(root / "tree" / "s1", "s1")
    return root


@pytest.fixture
def folder(built, tmp_path):
    """A copy of the data set beside its tree."""
    (tmp_path / "tree").symlink_to(built / "tree")
    return shutil.copytree(built / "s1", tmp_path / "s1")


@pytest.fixture
def expected(built):
    return contents(built / "s1")


def stamps(folder):
    """What changes when a file is written again."""
    found = {path.name: path.stat() for path in folder.iterdir() if path.suffix != ".unlisted"}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


@pytest.mark.parametrize("source", ["tree", "s1_grd.tar"])
@pytest.mark.parametrize("what", damage.SHARDS)
def test_bad_shards_are_built_again_and_good_ones_left_alone(built, folder, expected, what, source):
    before = stamps(folder)
    damage.SHARDS[what][0](folder)
    done = repair(folder, source=str(built / source))
    assert contents(folder) == expected
    bad = {"s1-000001.tar"} | ({"s1-000002.tar"} if what == "two shards" else set())
    assert {*done.rebuilt} == bad
    assert {name for name, stamp in stamps(folder).items() if stamp != before[name]} == bad
    assert (done.changed, done.reindexed, done.left.problems) == ((), False, ())


@pytest.mark.parametrize("what", damage.REST)
def test_the_rest_is_mended_without_a_source(folder, expected, what):
    before = stamps(folder)
    damage.REST[what][0](folder)
    workers = 2 if what == "a stale index" else 1
    done = repair(folder, settings=BUILT if what in LOST else None, workers=workers)
    assert done.left.problems == ()
    if what == "an extra tar":
        assert (folder / "s1-000099.tar.unlisted").read_bytes() == expected["s1-000002.tar"]
        (folder / "s1-000099.tar.unlisted").unlink()
    assert contents(folder) == expected
    assert done.reindexed == (what not in ("an extra tar", "a killed build"))
    tars = {name for name in before if name.endswith(".tar")}
    assert all(stamps(folder)[name] == before[name] for name in tars)


@pytest.mark.parametrize(
    ("shards", "source"),
    [("a bit of a member", "tree"), ("a missing shard", "s1_grd.tar"), ("two shards", "tree")],
)
@pytest.mark.parametrize("rest", damage.REST)
def test_two_things_at_once(built, folder, expected, shards, rest, source):
    damage.REST[rest][0](folder)
    damage.SHARDS[shards][0](folder)
    lost = rest in LOST or rest == "a stale manifest"
    done = repair(folder, source=str(built / source), settings=BUILT if lost else None)
    assert done.left.problems == ()
    (folder / "s1-000099.tar.unlisted").unlink(missing_ok=True)
    if (rest, shards) == ("a stale manifest", "two shards"):  # nothing left shows that it is stale
        expected = contents(folder.parent / "fewer")
    assert contents(folder) == expected


def test_nothing_to_mend_touches_nothing(folder):
    before = stamps(folder)
    assert repair(folder).found.problems == ()
    assert stamps(folder) == before


def test_locations_that_were_left_out_stay_out(built, tmp_path):
    ids = tmp_path / "ids.csv"
    ids.write_text("0\n5\n7\n9\n")  # not 1 and 6; there is no 7
    out = tmp_path / "out"
    build(built / "tree", out, product="s1", codec="zstd", samples_per_shard=4, locations=ids,
          on_missing="skip")  # fmt: skip
    good = contents(out)
    for name in ("s1-000000.tar", "s1-000001.tar"):
        (out / name).unlink()
    assert repair(out, source=str(built / "tree")).changed == ()
    assert contents(out) == good
    (out / "s1-000001.tar").unlink()
    (out / "index.parquet").unlink()  # now nothing tells that 6 was not wanted
    before = contents(out)
    with pytest.raises(ShardError, match=r"has 2 locations for s1-000001\.tar, where 1 belong"):
        repair(out, source=str(built / "tree"))
    assert contents(out) == before


def test_what_a_build_skipped_is_not_asked_for_without_an_index(built, tmp_path):
    tree = shutil.copytree(built / "tree", tmp_path / "tree")
    next((tree / "s1" / "0000006").rglob("VH.tif")).unlink()
    out = tmp_path / "out"
    build(tree, out, product="s1", codec="zstd", samples_per_shard=4, on_missing="skip")
    good = contents(out)
    (out / "s1-000001.tar").unlink()
    (out / "index.parquet").unlink()
    assert repair(out, source=str(tree)).left.problems == ()
    assert contents(out) == good


def test_a_source_that_lacks_something_changes_nothing(built, folder, tmp_path):
    tree = shutil.copytree(built / "tree", tmp_path / "less")
    shutil.rmtree(tree / "s1" / "0000006")
    damage.SHARDS["a bit of a member"][0](folder)
    before = contents(folder)
    with pytest.raises(SourceError, match=r"does not give s1-000001\.tar, .* changed: .*0000006"):
        repair(folder, source=str(tree))
    with pytest.raises(SourceError, match="does not exist"):
        repair(folder, source=str(tmp_path / "nowhere"))
    with pytest.raises(ShardError, match=r"1 shards must be made again: s1-000001\.tar\. Give --s"):
        repair(folder)
    assert contents(folder) == before


def test_a_source_that_has_changed_is_said_loudly(built, folder, tmp_path, caplog):
    tree = shutil.copytree(built / "tree", tmp_path / "other")
    shutil.rmtree(tree / "s1" / "0000005")
    shutil.copytree(tree / "s1" / "0000006", tree / "s1" / "0000005")
    damage.SHARDS["a missing shard"][0](folder)
    done = repair(folder, source=str(tree))
    assert (done.changed, done.reindexed) == (("s1-000001.tar",), True)
    assert "s1-000001.tar is not the shard that it was" in caplog.text
    build(tree, tmp_path / "fresh", product="s1", codec="zstd", samples_per_shard=4)
    assert contents(folder) == contents(tmp_path / "fresh")
    assert verify(folder).problems == ()


def test_settings_are_asked_for_where_nothing_tells_them(built, folder):
    damage.SHARDS["a missing shard"][0](folder)
    source = str(built / "tree")
    with pytest.raises(ShardError, match=r"--codec is jpeg:90, but .* says zstd"):
        repair(folder, source=source, settings=Settings(codec="jpeg:90"))
    (folder / "manifest.json").unlink()
    with pytest.raises(ShardError, match="Give --product, --codec and --samples-per-shard"):
        repair(folder, source=source, settings=Settings(codec="zstd"))


def test_shards_made_elsewhere_are_to_be_copied_again(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"samples_per_shard": 0}))
    damage.SHARDS["a missing shard"][0](folder)
    assert "Copy it again" in {each.remedy for each in verify(folder).problems}
    with pytest.raises(ShardError, match=r"build did not make them: .* Copy them again"):
        repair(folder, source="anywhere")


def upload(folder, done):
    for name in done.rebuilt:
        shutil.copy(done.folder / name, folder)
    if done.reindexed:
        for name in ("index.parquet", "manifest.json"):
            shutil.copy(done.folder / name, folder)


@pytest.mark.parametrize("what", ["two shards", "a cut index", "a stale manifest"])
def test_a_data_set_elsewhere_is_mended_by_what_one_uploads(
    s3, built, folder, expected, what, tmp_path, monkeypatch
):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    (damage.SHARDS | damage.REST)[what][0](folder)
    where = f"repair/{what.replace(' ', '-')}"
    url = s3.upload(folder, where)
    with pytest.raises(StorageError, match=r"is not a local folder; .* Give --output DIR"):
        repair(url, source=str(built / "tree"))
    done = repair(url, source=str(built / "tree"), output=tmp_path / "new")
    assert not done.needs_index
    upload(folder, done)
    s3.upload(folder, where)
    assert contents(folder) == expected
    assert verify(url).problems == ()


def test_the_command(built, folder, tmp_path, capsys):
    arguments = ["repair", str(folder), "--workers", "1"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{folder}: shards 3; nothing to mend\n"
    damage.SHARDS["two shards"][0](folder)
    assert main(arguments) == 1
    assert "2 shards must be made again: s1-000001.tar, s1-000002.tar" in capsys.readouterr().err
    assert main([*arguments, "--output", str(tmp_path / "new")]) == 1
    assert "Leave --output out" in capsys.readouterr().err
    assert main([*arguments, "--source", str(built / "s1_grd.tar")]) == 0
    out, err = capsys.readouterr()
    assert out == f"{folder}: shards 3, 2 of them made again; problems left 0\n"
    assert "s1-000001.tar: its sha256 is not the manifest's" in err
    damage.REST["a cut index"][0](folder)
    with http_server(folder) as server:
        new = tmp_path / "new"
        assert main(["repair", server.url, "--output", str(new), "--workers", "1"]) == 1
    out = capsys.readouterr().out
    assert f"upload index.parquet, manifest.json from {new}, then run ssl4eo-shard verify" in out
    shutil.copy(new / "index.parquet", folder)
    assert main(["verify", str(folder), "--workers", "1"]) == 0
