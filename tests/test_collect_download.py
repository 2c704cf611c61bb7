"""The command: what it says before, what it leaves, what it refuses."""

import contextlib
import random

import pytest
from archive_of_images import Images
from test_collect_tree import digests

from ssl4eo_stream.collect.part import Part, read_plan
from ssl4eo_stream.commands.collect import main
from ssl4eo_stream.commands.collect_download import collect
from ssl4eo_stream.commands.collect_options import Download
from ssl4eo_stream.errors import PlanError, StorageError
from ssl4eo_stream.shard import gather, unfinished
from ssl4eo_stream.shard.build import build


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "plan.csv"
    rows = [f"{i},{9.2 + 0.05 * i:.6f},48.2,Ulm" for i in range(30)]
    path.write_text("\n".join(["id,lon,lat,city", *rows]) + "\n")
    return path


def download(plan, dest, *, service=None, part="0/1", n=None, **options):
    asked = Download(
        plan=plan, dest=dest, year=2021, n=n, part=part, products="s2c,s1", dates="03-20,09-22",
        **options,
    )  # fmt: skip
    this, places = Part.parse(part), read_plan(plan)
    mine = this.places(places)
    return collect(
        asked, service or Images(clear=0.3), places=mine, part=this,
        wanted=len(mine) if n is None else this.share(n),
    )  # fmt: skip


def test_the_estimate_is_arithmetic(plan, tmp_path, capsys):
    flags = ["download", str(plan), str(tmp_path / "out"), "--year", "2021", "--dry-run"]
    assert main([*flags, "--n", "10"]) == 0
    said = capsys.readouterr().err
    # 10 x (3 searches + 4 dates x (1 + 3 + 3) grids); 8.4 MB a location; 310 x 1.5 s / 10 at once
    assert "10 locations × 4 dates of s1, s2a, s2c: 310 requests (30 searches, 280 for" in said
    assert "0.1 GB of pixels; 0.0 hours with 20 at once if a request takes 1.5 s" in said
    assert main([*flags, "--products", "s1", "--dates", "05-01"]) == 0
    assert "30 locations × 1 dates of s1: 60 requests" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_says_what_became_of_the_plan_and_a_second_asks_for_nothing(plan, tmp_path, capsys):
    assert download(plan, tmp_path / "out", n=8) == 0
    said = capsys.readouterr().out
    assert "out: locations 8 of 8, 8 now; rejected" in said
    made = digests(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "collect.sqlite", "s1", "s2c",
    ]  # fmt: skip
    service = Images()
    assert download(plan, tmp_path / "out", n=8, service=service) == 0
    assert not service.asked
    assert "locations 8 of 8, 0 now" in capsys.readouterr().out
    assert digests(tmp_path / "out") == made


def test_parts_share_the_plan(plan, tmp_path):
    for number in range(3):
        assert download(plan, tmp_path / "out", n=8, part=f"{number}/3") == 0
    ids = sorted(int(path.name) for path in (tmp_path / "out" / "s1").iterdir())
    assert [sum(i % 3 == number for i in ids) for number in range(3)] == [3, 3, 2]
    with pytest.raises(PlanError, match=r"holds collect-0-of-3\.sqlite: it is collected in other"):
        download(plan, tmp_path / "out", n=8)


def test_other_settings_and_foreign_trees_are_refused(plan, tmp_path):
    assert download(plan, tmp_path / "out", n=1) == 0
    with pytest.raises(PlanError, match=r"begun with --cloud 10\.0 \(asked for now: 5\.0\)"):
        download(plan, tmp_path / "out", n=1, cloud=5.0)
    (tmp_path / "tree" / "s2a" / "0000001").mkdir(parents=True)
    with pytest.raises(PlanError, match=r"s2a is not empty, and no collect\.sqlite says"):
        download(plan, tmp_path / "tree", n=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file can't be made: File exists"):
        download(plan, tmp_path / "file")


def test_a_plan_that_ends_too_early_and_failures_are_told(plan, tmp_path, capsys):
    assert download(plan, tmp_path / "short", n=30, service=Images(clear=0.1)) == 1
    assert "the plan is at its end" in capsys.readouterr().err
    assert download(plan, tmp_path / "all", service=Images(clear=0.1)) == 0
    assert digests(tmp_path / "all") == digests(tmp_path / "short")
    assert download(plan, tmp_path / "failing", n=9, service=Images(failing=0.1)) == 1
    said = capsys.readouterr()
    assert "run the same command again, to try them again" in said.err
    assert "locations 9 of 9" not in said.out


SHARDS = {"shards": True, "codec": "zstd", "samples_per_shard": 4}


def built(plan, folder, n):
    """Shards by way of a tree: what --shards has to equal."""
    assert download(plan, folder / "tree", n=n) == 0
    for product in ("s1", "s2c"):
        build(
            folder / "tree", folder / "shards" / product, product=product, codec="zstd",
            samples_per_shard=4, workers=0,
        )  # fmt: skip
    return digests(folder / "shards")


def test_shards_are_those_of_the_tree(plan, tmp_path, capsys):
    expected = built(plan, tmp_path, 9)
    out = tmp_path / "out"
    assert download(plan, out, n=9, **SHARDS) == 0
    assert "s2c zstd: shards 3, locations 9, " in capsys.readouterr().out
    assert digests(out) == expected
    assert sum(path.endswith(".tar") for path in expected) == 6
    service = Images()
    assert download(plan, out, n=9, service=service, **SHARDS) == 0
    assert not service.asked
    assert digests(out) == expected
    with pytest.raises(PlanError, match=r"--shards --n 9 \(asked for now: 10\)"):
        download(plan, out, n=10, **SHARDS)


def test_shards_that_were_stopped_anywhere_are_the_same(plan, tmp_path, monkeypatch):
    """Each call that fails leaves a location half filed; the tar is cut at a byte as well."""
    expected, out = built(plan, tmp_path, 9), tmp_path / "out"
    chance, real = random.Random(1), unfinished.append

    class Killed(Exception):  # noqa: N818 - no error
        """Ends the run, like a kill."""

    stops = 0
    while True:
        left = chance.randrange(1, 20)

        def append(path, parcel):
            nonlocal left
            left -= 1
            if left <= 0:
                raise Killed
            real(path, parcel)

        try:
            monkeypatch.setattr(gather, "append", append)
            assert download(plan, out, n=9, concurrency=3, **SHARDS) == 0
        except Killed:
            stops += 1
            path = chance.choice([*out.rglob("*.unfinished.tar"), out / "x"])
            with contextlib.suppress(FileNotFoundError), path.open("ab") as file:
                file.write(chance.randbytes(3000))
        else:
            break
    assert stops > 3
    assert digests(out) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--products", "s1,s3"], "--products s1,s3: 's3' is none; give some of s1,s2a,s2c"),
        (["--products", "s1,s1"], "--products s1,s1 names one twice"),
        (["--n", "0"], "--n is 0; give 1 or more"),
        (["--dates", "03-20", "--random-phase"], "--dates and --random-phase are different"),
        (["--seed", "-1"], "--seed is -1"),
        (["--cloud", "0"], "--cloud is 0; give more than 0"),
        (["--concurrency", "0"], "--concurrency is 0; give 1 to 500"),
        (["--part", "4/4"], "4/4; give I/N with I from 0 to N - 1"),
        (["--part", "one"], "'one'; give I/N"),
    ],
)
def test_wrong_flags_are_named(plan, flags, message, capsys):
    assert main(["download", str(plan), "out", "--year", "2021", *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--year", "2021", "--n", "31"], "has only 30 locations. Make a longer plan"),
        (["--year", "2014"], "year 2014: Sentinel-2 has images since 2015"),
        (["--year", "2999"], "--year 2999: the last window ends on 3000-01-05"),
        (["--year", "2021", "--dates", "03-20,03-21"], "there are 1 days; windows are 30"),
        (["--year", "2021", "--dates", "x"], "dates 'x': write months and days"),
    ],
)
def test_what_the_plan_cannot_give_is_named(plan, flags, message, capsys):
    assert main(["download", str(plan), "out", "--dry-run", *flags]) == 1
    assert message in capsys.readouterr().err


def test_ids_that_are_no_folders_are_refused(tmp_path):
    path = tmp_path / "plan.csv"
    path.write_text("id,lon,lat\n10000000,1,2\n")
    with pytest.raises(PlanError, match="has the id 10000000; ids are folders of seven digits"):
        read_plan(path)
