"""ssl4eo-shard as people run it: output, exit codes, full disks, Ctrl-C."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from trees import write_tar, write_tree
from zarr_shards import pixels_by_id, write_tars

from ssl4eo_stream.commands.shard import main
from ssl4eo_stream.shard.verify import verify

COMMAND = [sys.executable, "-m", "ssl4eo_stream.commands.shard"]
IDS = (0, 1, 5, 6, 9)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Five Sentinel-1 locations of two dates."""
    root = tmp_path_factory.mktemp("tree")
    write_tree(root, "s1", IDS)
    return root


@pytest.fixture(autouse=True)
def handlers():
    """The command takes SIGTERM for Ctrl-C; the tests' own process goes back to what it was."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_build_and_verify_say_one_line_each_on_stdout(tree, tmp_path, capsys):
    options = ("--product", "s1", "--samples-per-shard", 4, "--workers", 1)
    assert run("build", tree, tmp_path, *options) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("s1 jpeg:90: shards 3 (3 written, 0 kept), locations 5, patches 10, ")
    assert out.count("\n") == 1
    assert run("verify", tmp_path, "--workers", 1) == 0
    out, _ = capsys.readouterr()
    assert out.endswith("problems 0\n")
    (tmp_path / "s1-000001.tar").unlink()
    assert run("verify", tmp_path, "--workers", 1) == 1
    out, err = capsys.readouterr()
    assert out.endswith("bad shards 1, problems 1\n")
    assert "s1-000001.tar: it is missing. Run ssl4eo-shard repair" in err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "{tree}/nowhere", "{out}", "--product", "s1"], 1, "nowhere does not exist"),
        (["build", "{tree}", "{out}", "--product", "s2c"], 1, "holds s1 but no s2c"),
        (["build", "{tree}", "{file}/sub", "--product", "s1"], 1, "sub can't be made"),
        (["build", "{tree}", "{out}", "--product", "s1", "--codec", "png"], 2, "jpeg:Q"),
        (["build", "{tree}", "{out}", "--product", "s1", "--samples-per-shard", "0"], 2, "1 or"),
        (["verify", "{out}"], 1, "there is no such folder"),
        (["repair", "{out}"], 1, "there is no such folder"),
        (["build", "{tree}", "{out}", "--product", "s2c", "--dn-offset", "1000"], 2, "v1.0 has no"),
        (["build", "{tree}", "{out}", "--product", "s1", "--from", "v1.1", "--dn-offset", "1000"],
         2, "--dn-offset is for Sentinel-2"),
        (["build", "{tree}", "{out}", "--product", "s1", "--from", "v1.1"], 1, "holds no *.tar"),
    ],
)  # fmt: skip
def test_errors_are_one_message_on_stderr(tree, tmp_path, capsys, arguments, code, message):
    (tmp_path / "file").touch()
    places = {"tree": tree, "out": tmp_path / "out", "file": tmp_path / "file"}
    filled = [argument.format(**places) for argument in arguments]
    assert run(*filled, "--workers", 1) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ssl4eo-shard: ")
    assert message in err
    assert "Traceback" not in err


def test_v11_by_its_flags(tmp_path, capsys):
    write_tars(tmp_path / "in", "s2c", pixels_by_id("s2c", (7,)), offset=1000)
    how = ("--product", "s2c", "--from", "v1.1", "--workers", 1)
    assert run("build", tmp_path / "in", tmp_path / "out", *how) == 1
    assert "Say --dn-offset 1000; sets that differ" in capsys.readouterr().err
    assert run("build", tmp_path / "in", tmp_path / "out", *how, "--dn-offset", 1000) == 0
    assert "locations 1, patches 2" in capsys.readouterr().out
    assert run("verify", tmp_path / "out", "--workers", 1) == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_bytes())["dn_offset"] == 1000


@pytest.mark.parametrize(
    "arguments", [[], ["build"], ["build", "a", "b"], ["build", "a", "b", "--product", "s3"]]
)
def test_usage_errors_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


@pytest.mark.parametrize("command", ["build", "verify", "repair", "index"])
def test_help_names_every_option(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    expected = {
        "build": ["SRC", "DEST", "--product", "--codec", "--samples-per-shard", "--locations",
                  "--on-missing", "--from", "--dn-offset", "--scratch", "--dask", "--slurm"],
        "verify": ["URL", "--json FILE"],
        "repair": ["URL", "--source SRC", "--output DIR", "--product", "--codec"],
        "index": ["URL", "--output DIR", "--product", "--samples-per-shard", "{000000..000489}"],
    }[command] + ["--workers"]  # fmt: skip
    assert all(option in text for option in expected)


def test_index_says_one_line_on_stdout_and_what_it_passed_over(tree, tmp_path, capsys):
    assert run("build", tree, tmp_path / "s1", "--product", "s1", "--workers", 1) == 0
    expected = (tmp_path / "s1" / "manifest.json").read_bytes()
    (tmp_path / "s1" / "manifest.json").unlink()
    with tarfile.open(tmp_path / "s1" / "s1-000000.tar") as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    capsys.readouterr()
    assert run("index", tmp_path / "s1", "--workers", 1, "--product", "s1") == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(
        r"s1 jpeg:90: shards 1, locations 5, patches 10, [\d.]+ MB read in [\d.]+ s, [\d.]+ MB/s; "
        rf"members passed over 0; index\.parquet and manifest\.json are in {tmp_path}/s1\n",
        out,
    )
    assert "passed over" not in err
    assert (tmp_path / "s1" / "manifest.json").read_bytes() == expected
    (tmp_path / "more").mkdir()
    write_tar(tmp_path / "more" / "x.tar", members | {f"notes/{i}.txt": b"" for i in range(4)})
    assert run("index", tmp_path / "more", "--workers", 1, "--output", tmp_path / "index") == 0
    out, err = capsys.readouterr()
    assert "members passed over 4; " in out
    assert "x.tar: 4 members passed over: notes/0.txt, notes/1.txt, notes/2.txt, …\n" in err
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "index.parquet", "manifest.json",
    ]  # fmt: skip
    assert run("index", tmp_path / "more", "--workers", 1, "--product", "s2c") == 1
    assert "x.tar: member 0000000.t0.tif is s1 of pages" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run("index", tmp_path / "more", "--output", tmp_path / "file" / "deep") == 1
    assert "can't be made: " in capsys.readouterr().err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_message_and_the_next_run_goes_on(tree, tmp_path, workers):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))

    command = [*COMMAND, "build", tree, tmp_path, "--product", "s1", "--codec", "zstd",
               "--samples-per-shard", "4", "--workers", str(workers)]  # fmt: skip
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"s1-00000\d\.tar can't be written: File too large", done.stderr)
    assert "finished shards are kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.rglob("*") if ".tmp-" in p.name]
    assert not (tmp_path / "manifest.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "locations 5, patches 10" in done.stdout
    assert verify(tmp_path).problems == ()


@pytest.fixture
def unprivileged():
    """Root may do anything, so as root a test of permissions is nobody for a while."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    yield
    os.seteuid(user)


@pytest.fixture
def public(tree):
    """A copy of the tree that everybody may read, a closed folder, and one that is read-only."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(tree, folder / "tree")
        (folder / "closed").mkdir(mode=0o000)
        (folder / "out").mkdir(mode=0o555)
        for path in (folder, folder / "tree"):
            path.chmod(0o755)
        yield folder
        (folder / "closed").chmod(0o700)


@pytest.mark.parametrize(
    ("source", "dest"), [("closed/tree", "new"), ("tree", "out"), ("tree", "closed/new")]
)
@pytest.mark.usefixtures("public", "unprivileged")  # in this order
def test_a_folder_without_permission_is_one_message(public, capsys, source, dest):
    arguments = ("build", public / source, public / dest, "--product", "s1", "--workers", 1)
    assert run(*arguments) == 1
    err = capsys.readouterr().err
    assert "Permission denied" in err
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "stop"), [(1, signal.SIGINT), (2, signal.SIGINT), (2, signal.SIGTERM)]
)
def test_ctrl_c_leaves_nothing_half_written(tmp_path, stop, workers):
    source, dest = tmp_path / "tree", tmp_path / "out"
    write_tree(source, "s1", [0], dates=1)
    for i in range(1, 240):
        (source / "s1" / f"{i:07d}").symlink_to(source / "s1" / "0000000")
    command = [*COMMAND, "build", source, dest, "--product", "s1", "--codec", "jpeg:90",
               "--samples-per-shard", "20", "--workers", str(workers)]  # fmt: skip
    # A shell's background job ignores SIGINT, and so would its child; a handler is not inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        deadline = time.monotonic() + 60
        while not list(dest.glob(".parts/*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(stop)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in err
    assert "Traceback" not in err
    assert not [p for p in dest.rglob("*") if ".tmp-" in p.name]
    assert not (dest / "manifest.json").exists()
    finished = len(list(dest.glob(".parts/*.parquet")))
    assert 0 < finished < 12
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"shards 12 ({12 - finished} written, {finished} kept)" in done.stdout
