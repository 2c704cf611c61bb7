"""Archives become the same shards as the trees that they hold, in whatever order members come."""

import gzip
import io
import random
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import write_tree

from ssl4eo_stream.errors import ShardError, SourceError, StorageError
from ssl4eo_stream.shard.archive import Archive, TruncatedError, is_archive, place_in_tree
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.parts import PARTS

OPTIONS = {"product": "s2c", "codec": "jpeg:75", "samples_per_shard": 4}
IDS = (0, 1, 3, 4, 6, 9)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six locations on two dates, in shards of up to four."""
    folder = tmp_path_factory.mktemp("tree")
    write_tree(folder, "s2c", IDS, dates=2)
    return folder


@pytest.fixture(scope="module")
def expected(tree, tmp_path_factory):
    """What a build of the tree makes: name -> bytes."""
    dest = tmp_path_factory.mktemp("expected")
    build(tree, dest, workers=0, **OPTIONS)
    return contents(dest)


def contents(dest):
    """Name -> bytes of a finished data set."""
    return {path.name: path.read_bytes() for path in dest.iterdir() if path.is_file()}


def files_of(tree, *, order="ids", seed=0):
    """Paths of a tree's files: by id, by shuffled locations, or shuffled altogether."""
    paths = sorted(path for path in tree.rglob("*") if path.is_file())
    rng = random.Random(seed)
    if order == "locations":
        rank = {i: rng.random() for i in sorted({path.parts[-3] for path in paths})}
        return sorted(paths, key=lambda path: (rank[path.parts[-3]], str(path)))
    if order == "members":
        rng.shuffle(paths)
    return paths


def packed(tree, paths, *, zipped=False, product="s2c"):
    """Return an archive of a tree's files as `tar c` makes it, folders and all."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.add(tree / product, product, recursive=False)
        for path in paths:
            tar.add(path, str(path.relative_to(tree)))
    return gzip.compress(sink.getvalue(), 1) if zipped else sink.getvalue()


@pytest.mark.parametrize("order", ["ids", "locations", "members"])
@pytest.mark.parametrize("name", ["s2_l1c.tar", "s2_l1c.tar.gz"])
def test_same_shards_as_the_tree(tree, expected, tmp_path, order, name):
    (tmp_path / name).write_bytes(
        packed(tree, files_of(tree, order=order), zipped=name.endswith("gz"))
    )
    read = []
    built = build(
        tmp_path / name, tmp_path / "out", workers=0, **OPTIONS,
        on_read=lambda done, size: read.append((done, size)),
    )  # fmt: skip
    assert contents(tmp_path / "out") == expected
    assert built.built == 3
    assert read[-1] == (size := (tmp_path / name).stat().st_size, size)
    assert not (tmp_path / "out" / PARTS).exists()


def test_same_shards_by_two_workers(tree, expected, tmp_path):
    (tmp_path / "s2_l1c.tar.gz").write_bytes(packed(tree, files_of(tree), zipped=True))
    build(tmp_path / "s2_l1c.tar.gz", tmp_path / "out", workers=2, **OPTIONS)
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("endings", [["00", "01", "02"], ["aa", "ab", "ac"], ["9", "10", "11"]])
def test_pieces(tree, expected, tmp_path, endings):
    data = packed(tree, files_of(tree), zipped=True)
    third = len(data) // 3 + 1
    for number, ending in enumerate(endings):
        piece = data[number * third : (number + 1) * third]
        (tmp_path / f"s2_l1c.tar.gz.part{ending}").write_bytes(piece)
    build(f"{tmp_path}/s2_l1c.tar.gz.part*", tmp_path / "out", workers=0, **OPTIONS)
    assert contents(tmp_path / "out") == expected
    (tmp_path / f"s2_l1c.tar.gz.part{endings[1]}").unlink()
    with pytest.raises(SourceError, match=r"1 pieces are missing between \S+ and \S+\."):
        Archive.find(f"{tmp_path}/s2_l1c.tar.gz.part*")


def test_from_object_storage(tree, expected, tmp_path, s3, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "s2_l1c.tar.gz").write_bytes(packed(tree, files_of(tree), zipped=True))
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    url = s3.upload(tmp_path / "in", "archives")
    build(f"{url}/s2_l1c.tar.gz", tmp_path / "out", workers=0, **OPTIONS)
    assert contents(tmp_path / "out") == expected


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(share=st.floats(0, 0.999), zipped=st.booleans(), seed=st.integers(0, 3))
def test_a_cut_archive_is_told_of_and_gone_on_with(tree, expected, tmp_path_factory, share, zipped,
                                                   seed):  # fmt: skip
    folder = tmp_path_factory.mktemp("cut")
    data = packed(tree, files_of(tree, order="locations", seed=seed), zipped=zipped)
    archive = folder / "s2_l1c.tar.gz"
    archive.write_bytes(data[: int(share * len(data))])
    with pytest.raises((TruncatedError, SourceError, StorageError)) as cut:
        build(archive, folder / "out", workers=0, **OPTIONS)
    assert archive.name in str(cut.value)
    assert not (folder / "out" / "manifest.json").exists()
    archive.write_bytes(data)
    build(archive, folder / "out", workers=0, **OPTIONS)
    assert contents(folder / "out") == expected


def test_a_cut_archive_without_its_last_location(tree, expected, tmp_path):
    data = packed(tree, files_of(tree))
    end = data.index(b"s2c/0000006/20200823")  # the second date of the last location but one
    (tmp_path / "s2_l1c.tar").write_bytes(data[: end + 5000])
    with pytest.raises(TruncatedError, match=r"behind s2c/0000006/20200823\S+tif"):
        build(tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, **OPTIONS)
    built = build(
        tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, on_missing="skip", **OPTIONS
    )
    assert built.manifest.locations == 4
    assert [(each.id, each.reason) for each in built.skipped] == [
        ("0000006", "the archive ends in the middle of it")
    ]
    assert contents(tmp_path / "out")["s2c-000000.tar"] == expected["s2c-000000.tar"]


def test_a_damaged_archive(tree, tmp_path):
    data = bytearray(packed(tree, files_of(tree)))
    data[data.index(b"s2c/0000004")] ^= 1  # a header whose sum is wrong now
    (tmp_path / "s2_l1c.tar").write_bytes(data)
    with pytest.raises(TruncatedError, match="is cut or damaged behind s2c/0000003"):
        build(tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, **OPTIONS)


def test_what_was_being_written_is_written_again(tree, expected, tmp_path):
    archive = tmp_path / "s2_l1c.tar"
    archive.write_bytes(packed(tree, files_of(tree))[:-3_000_000])
    with pytest.raises(TruncatedError):
        build(archive, tmp_path / "out", workers=0, **OPTIONS)
    (unfinished, *_) = sorted((tmp_path / "out" / PARTS).glob("*.unfinished.tar"))
    unfinished.write_bytes(unfinished.read_bytes()[:-700])
    archive.write_bytes(packed(tree, files_of(tree)))
    build(archive, tmp_path / "out", workers=0, **OPTIONS)
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_again_and_again(tree, expected, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("ssl4eo_stream.shard.pieces.RANGE_BYTES", 1 << 20)
    archive = tmp_path / "s2_l1c.tar"
    archive.write_bytes(packed(tree, files_of(tree, order="locations")))
    filed = []
    for megabytes in (2, 3, 5, 7, 9):

        def interrupt(done, _size, after=megabytes << 20):
            if done > after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(archive, tmp_path / "out", workers=workers, on_read=interrupt, **OPTIONS)
        unfinished = (tmp_path / "out" / PARTS).glob("*.unfinished.tar")
        filed.append(sum(path.stat().st_size for path in unfinished))
    assert filed == sorted(filed)
    build(archive, tmp_path / "out", workers=workers, **OPTIONS)
    assert contents(tmp_path / "out") == expected


def test_a_stop_between_gathering_and_packing(tree, expected, tmp_path):
    (tmp_path / "s2_l1c.tar").write_bytes(packed(tree, files_of(tree)))

    def interrupt(_shard):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, on_shard=interrupt, **OPTIONS)
    read = []
    built = build(
        tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0,
        on_read=lambda done, _size: read.append(done), **OPTIONS,
    )  # fmt: skip
    assert (built.kept, built.built, read) == (1, 2, [])
    assert contents(tmp_path / "out") == expected


def test_a_date_without_a_band(tree, tmp_path):
    paths = [path for path in files_of(tree) if "0000003" not in str(path) or path.stem != "B8A"]
    (tmp_path / "s2_l1c.tar").write_bytes(packed(tree, paths))
    with pytest.raises(SourceError, match=r"s2_l1c.tar: 0000003/20200604\S+ lacks B8A\. Get the"):
        build(tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, **OPTIONS)
    built = build(
        tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, on_missing="skip", **OPTIONS
    )
    assert [each.id for each in built.skipped] == ["0000003"]
    assert built.manifest.locations == 5


def test_a_damaged_band(tree, tmp_path):
    data = packed(tree, files_of(tree))
    start = data.index(b"II*", data.index(b"s2c/0000003"))
    (tmp_path / "s2_l1c.tar").write_bytes(data[:start] + b"??" + data[start + 2 :])
    with pytest.raises(SourceError, match=r"s2_l1c.tar: 0000003/20200604\S+/B1.tif"):
        build(tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, **OPTIONS)
    built = build(
        tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, on_missing="skip", **OPTIONS
    )
    assert [each.id for each in built.skipped] == ["0000003"]


def test_some_locations(tree, tmp_path):
    (tmp_path / "s2_l1c.tar").write_bytes(packed(tree, files_of(tree)))
    (tmp_path / "ids.csv").write_text("id\n1\n4\n")
    for source, dest in ((tree, "a"), (tmp_path / "s2_l1c.tar", "b")):
        build(source, tmp_path / dest, workers=0, locations=tmp_path / "ids.csv", **OPTIONS)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    (tmp_path / "ids.csv").write_text("id\n1\n5\n")
    with pytest.raises(SourceError, match=r"s2_l1c.tar lacks 1 locations .* 0000005"):
        build(
            tmp_path / "s2_l1c.tar", tmp_path / "c", workers=0, locations=tmp_path / "ids.csv",
            **OPTIONS,
        )  # fmt: skip


def test_nothing_of_the_product(tree, tmp_path):
    (tmp_path / "s2_l1c.tar").write_bytes(packed(tree, files_of(tree)))
    with pytest.raises(SourceError, match="Is it of s1"):
        build(tmp_path / "s2_l1c.tar", tmp_path / "out", product="s1", workers=0)


def test_a_finished_data_set_is_left_alone(tree, tmp_path, caplog):
    (tmp_path / "s2_l1c.tar").write_bytes(packed(tree, files_of(tree)))
    build(tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, **OPTIONS)
    before = contents(tmp_path / "out")
    assert build(tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, **OPTIONS).kept == 3
    assert "is finished; the archive is not read again" in caplog.text
    assert contents(tmp_path / "out") == before
    with pytest.raises(ShardError, match="codec jpeg:75, and codec jpeg:90 was asked for"):
        build(
            tmp_path / "s2_l1c.tar", tmp_path / "out", workers=0, **{**OPTIONS, "codec": "jpeg:90"}
        )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("s2c/0000012/20200604T1_T43RCP/B8A.tif", (12, "20200604T1_T43RCP", "B8A.tif")),
        ("./0000012/x/metadata.json", (12, "x", "metadata.json")),
        ("0000012/x/B1.tif", (12, "x", "B1.tif")),
        ("s2c/0000012/x/notes.txt", None),
        ("s2c/12/x/B1.tif", None),
        ("B1.tif", None),
    ],
)
def test_places(name, place):
    assert place_in_tree(name) == place


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("a/s2.tar.gz", True), ("s3://b/s2_l1c.tar.gz.part*", True), ("x.TAR", True), ("x.tgz", True),
     ("tree", False), ("s3://b/s2c", False)],
)  # fmt: skip
def test_names(name, is_one):
    assert is_archive(name) is is_one
