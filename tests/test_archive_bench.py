"""The benchmark of archives: what it reads, whom it watches, and what it makes of the numbers."""

import gzip
import json
import pickle
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import rasterio
import tifffile
from archive import row_of
from archive_material import DATES, LAYOUTS, Grown
from archive_runs import (
    AT_RANDOM,
    BY_ID,
    EXPECTED,
    PUBLISHED,
    TREE,
    UNPACKING,
    Line,
    Measured,
    digest_of,
    same_bytes,
)
from conversion import convert
from estimate import PATCHES, Cluster, cost_of, estimate, rows_of
from trees import write_tree
from watched import Seen, watch

from ssl4eo_stream.bands import S2C
from ssl4eo_stream.shard.archive import Archive
from ssl4eo_stream.shard.build import build

ROOT = Path(__file__).parent.parent
LOCATIONS = 3


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two places of two dates."""
    folder = tmp_path_factory.mktemp("small")
    write_tree(folder, "s2c", range(2), dates=2)
    return folder


@pytest.fixture(scope="module")
def grown(source, tmp_path_factory):
    """The tree in every layout."""
    root = tmp_path_factory.mktemp("grown")
    return {
        layout: Grown(source=source, root=root, layout=layout, locations=LOCATIONS)
        for layout in LAYOUTS
    }


def files_of(tree):
    return {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()}


def test_real_and_invented_places_take_turns(grown, source):
    tree = grown["as published"].tree / "s2c"
    for location, synthetic in enumerate((False, True, False)):
        dates = sorted((tree / f"{location:07d}").iterdir())
        assert len(dates) == DATES
        for date in dates:
            fields = json.loads((date / "metadata.json").read_text())
            assert fields.get("synthetic", False) is synthetic
    (first, *_) = sorted((source / "s2c" / "0000000").iterdir())
    here = tree / "0000000" / "20200101T100000_20200101T100000_T31TFJ"
    for band in S2C.names:
        assert np.array_equal(tifffile.imread(first / f"{band}.tif"),
                              tifffile.imread(here / f"{band}.tif"))  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "compression", "strips"),
    [("as published", 1, 18), ("one strip", 1, 1), ("deflated", 8, 1)],
)
def test_files_are_stored_as_their_layout_says(grown, layout, compression, strips):
    path = next((grown[layout].tree / "s2c" / "0000001").rglob("B2.tif"))
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert (page.compression, len(page.dataoffsets)) == (compression, strips)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["id", "random"])
def test_an_archive_is_its_tree(grown, layout, order):
    """As another program inflates and reads it, in the order that is asked for."""
    material = grown[layout]
    with gzip.open(material.archive(order)) as inflated, tarfile.open(fileobj=inflated) as tar:
        found = {info.name: tar.extractfile(info).read() for info in tar if info.isreg()}
        infos = tar.getmembers()
    assert found == files_of(material.tree)
    assert len(infos) == material.members
    assert sum(map(len, found.values())) == material.bytes
    places = list(dict.fromkeys(info.name.split("/")[1] for info in infos))
    assert (places == sorted(places)) == (order == "id")
    plain = material.archive("id", zipped=False)
    with tarfile.open(plain, "r:") as tar:
        assert len(tar.getmembers()) == material.members


def test_every_layout_and_order_gives_the_same_shards(grown, tmp_path):
    digests = set()
    for layout in LAYOUTS:
        material = grown[layout]
        for number, there in enumerate((material.tree, material.archive("random"))):
            dest = tmp_path / f"{layout}-{number}"
            build(there if number == 0 else str(there), dest, product="s2c", samples_per_shard=2)
            digests.add(digest_of(dest))
    assert len(digests) == 1


def test_the_published_conversion_is_as_described(grown, tmp_path):
    tree = grown["deflated"].tree / "s2c"
    folders = sorted(tree.iterdir())
    assert convert(folders, tmp_path / "lmdb", workers=0) == LOCATIONS * DATES
    with lmdb.open(str(tmp_path / "lmdb"), readonly=True) as database, database.begin() as rows:
        data, shape = pickle.loads(rows.get(b"2"))
    assert shape == (DATES, 13, 264, 264)
    row = np.frombuffer(data, np.uint8).reshape(shape)
    date = sorted(folders[2].iterdir())[3]
    for channel, name in enumerate(S2C.names):
        with rasterio.open(date / f"{name}.tif") as file:
            fine = cv2.resize(file.read(1), (264, 264), interpolation=cv2.INTER_LINEAR_EXACT)
        held = fine < 10_000
        expected = np.trunc(fine / 10_000 * 255)
        assert np.array_equal(row[3, channel][held], expected[held])
        assert np.array_equal(row[3, channel][~held], expected[~held] % 256)  # wraps around


def test_a_command_is_watched_with_its_children(tmp_path):
    """A parent of no size whose child holds 150 MB, works for a while and leaves a file."""
    child = (
        "import pathlib, time; b = bytearray(150_000_000); "
        f"pathlib.Path({str(tmp_path)!r}, 'left.tif').write_text('x'); "
        "end = time.process_time() + 0.6\nwhile time.process_time() < end: pass"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    seen = watch([sys.executable, "-c", parent + "; print('done')"], cores=1, folder=tmp_path,
                 expected=re.compile(r".*\.tar"))  # fmt: skip
    assert seen.output == "done\n"
    assert seen.foreign == {"left.tif"}
    assert seen.processes == 2
    assert 150e6 < seen.peak_bytes < 400e6
    assert 0.6 <= seen.cpu_seconds <= seen.seconds * 1.1
    assert seen.main_cpu_seconds < 0.4
    with pytest.raises(RuntimeError, match="ended with 3"):
        watch([sys.executable, "-c", "raise SystemExit(3)"], cores=1, folder=tmp_path,
              expected=EXPECTED)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "is_expected"),
    [
        ("dest/s2c-000012.tar", True),
        ("dest/.s2c-000012.tar.tmp-host-77", True),
        ("dest/.parts/.s2c-000012.tar.parquet.tmp-host-77", True),
        ("dest/.parts/s2c-000012.unfinished.tar", True),
        ("dest/.parts/s2c-000012.tar.parquet", True),
        ("dest/index.parquet", True),
        ("dest/s2c/0000012/20200101T100000/B1.tif", False),
        ("dest/B1.tif", False),
        ("tmp/s2_l1c.tar", False),
    ],
)
def test_which_files_a_build_may_have(path, is_expected):
    assert bool(EXPECTED.fullmatch(path)) is is_expected


def measured(samples, seconds, *, digest="a" * 64, peak=1e9, cpu=1.0, first=0.5):
    return Measured(
        samples=samples, seconds=seconds, read_bytes=samples * 500_000,
        written_bytes=samples * 100_000, digest=digest,
        seen=Seen(peak_bytes=int(peak), cpu_seconds=cpu, main_cpu_seconds=first),
    )  # fmt: skip


def found_of(*, peak=1e9):
    """Two repeats on two cores: 100 and 200/s, a tree 150/s, published 20 and 40, tar 20 and 40."""
    line = Line("as published", BY_ID, 2)

    def at(source):
        return Line(line.layout, source, line.workers)

    return line, {
        line: [measured(400, 4, peak=peak, cpu=6, first=2), measured(400, 2, cpu=6, first=2)],
        at(TREE): [measured(400, 400 / 150), measured(400, 400 / 150)],
        at(PUBLISHED): [measured(40, 2, digest=""), measured(40, 1, digest="")],
        at(UNPACKING): [measured(40, 2, digest=""), measured(40, 1, digest="")],
    }


def test_ratios_are_taken_within_a_repeat():
    line, found = found_of()
    row = row_of(line, found)
    assert row["samples/s"] == 150
    assert row["× published"] == 5.0
    assert row["× published after tar xzf"] == 10.0
    assert (row["promised"], row["kept"]) == (4.0, "yes")
    assert row["CPU ms a sample"] == 15.0
    assert row["of the first process"] == 5.0
    assert (row["KB read a sample"], row["KB written a sample"]) == (500, 100)
    line, found = found_of(peak=1.6e9)
    assert row_of(line, found)["kept"] == "no"
    found[Line(line.layout, PUBLISHED, 2)] = [measured(40, 1), measured(40, 1)]
    assert row_of(line, found)["kept"] == "no"


def test_other_bytes_end_the_benchmark():
    line, found = found_of()
    same_bytes(found)
    found[line].append(measured(400, 1, digest="b" * 64))
    with pytest.raises(RuntimeError, match="400 samples came out differently"):
        same_bytes(found)


ROW = {"files": "as published", "workers": 2, "samples/s": 160.0, "CPU ms a sample": 10.0,
       "of the first process": 3.6, "KB read a sample": 600.0,
       "KB written a sample": 120.0}  # fmt: skip
ROWS = [{**ROW, "source": source} for source in (AT_RANDOM, TREE, PUBLISHED)]


def test_the_longest_bound_counts():
    """A patch: 10 ms of processor, 3.6 ms of them in the stream, 0.72 MB; cores 80 % used."""
    cost = cost_of(ROW, streams=True)
    assert cost.used == pytest.approx(0.8)
    node = Cluster(nodes=1, cores=32, megabytes_per_second=500)
    found = estimate(cost, node)
    assert PATCHES == 1_004_316
    assert found.stream == pytest.approx(1.004316)
    assert found.processor == pytest.approx(3 * PATCHES * 0.01 / 32 / 0.8 / 3600)
    assert found.bytes == pytest.approx(3 * PATCHES * 0.72 / 500 / 3600)
    assert (found.bound, found.hours) == ("bytes", found.bytes)
    fast = Cluster(nodes=1, cores=2, megabytes_per_second=1e6)
    assert estimate(cost, fast).bound == "processor"
    fast = Cluster(nodes=1, cores=64, megabytes_per_second=1e6)
    assert estimate(cost, fast).bound == "stream"


def test_nodes_help_a_tree_and_no_archive_beyond_the_third():
    one, three, ten = (
        Cluster(nodes=nodes, cores=32, megabytes_per_second=500) for nodes in (1, 3, 10)
    )
    tree, archive = cost_of(ROW, streams=False), cost_of(ROW, streams=True)
    assert estimate(tree, ten).hours == pytest.approx(estimate(tree, one).hours / 10)
    assert estimate(tree, one).stream == 0
    assert estimate(archive, ten) == estimate(archive, three)
    rows = rows_of(ROWS, [one, ten])
    assert [row["hours"] for row in rows if row["source"] == TREE] == [
        pytest.approx(estimate(tree, each).hours, abs=0.01) for each in (one, ten)
    ]
    assert len(rows) == 6


@pytest.mark.slow
@pytest.mark.timeout(600)  # ten commands in fresh processes
def test_it_runs(source, tmp_path):
    """Everything once, small; and hours from what it wrote."""
    results = tmp_path / "results"
    command = [
        sys.executable, ROOT / "benchmarks" / "archive.py", "--data", source,
        "--scratch", tmp_path / "scratch", "--results", results, "--layouts", "deflated",
        "--locations", 4, "--few-locations", 2, "--published-locations", 2,
        "--stage-locations", 2, "--workers", 2,
        "--samples-per-shard", 2, "--repeats", 2,
    ]  # fmt: skip
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stages, builds = (
        json.loads(next(results.glob(pattern)).read_text())["rows"]
        for pattern in ("archive-stages_*.json", "archive_*.json")
    )
    shares = [row["share %"] for row in stages if row["approach"] == "this package"
              if "share %" in row]  # fmt: skip
    assert len(shares) == 7
    assert sum(shares) == pytest.approx(100, abs=0.5)
    assert {row["source"] for row in builds} == {AT_RANDOM, BY_ID, TREE, PUBLISHED, UNPACKING}
    assert len({row["sha256"] for row in builds} - {""}) == 1
    (slow,) = (row for row in builds if row["source"] == PUBLISHED)
    assert 0 < slow["of the first process"] < slow["CPU ms a sample"]
    assert not (tmp_path / "scratch" / "run").exists()
    script = ROOT / "benchmarks" / "estimate.py"
    path = next(results.glob("archive_*.json"))
    done = subprocess.run([sys.executable, str(script), str(path), "--cores", "8"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.count("| 10 | 8 |") == 3
    assert "Assumptions" in done.stdout


def test_the_package_reads_the_random_archive_whole(grown):
    parcels = list(
        Archive.find(str(grown["one strip"].archive("random"))).parcels(wanted=lambda *_: True)
    )
    assert len(parcels) == LOCATIONS * DATES
    assert all(len(parcel.files) == 14 for parcel in parcels)
