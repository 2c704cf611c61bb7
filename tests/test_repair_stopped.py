"""Mending a data set, stopped anywhere and run again: it ends as if it had not been."""

import shutil
import signal
import subprocess
import sys
import tarfile
import time

import damage
import pytest
from damage import contents
from trees import write_tree

from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.destination import atomic_file
from ssl4eo_stream.shard.rebuild import Watch
from ssl4eo_stream.shard.repair import repair
from ssl4eo_stream.shard.verify import verify

IDS = (0, 1, 5, 6, 9)  # shards 0, 1 and 2 of four ids


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


class StopError(Exception):
    """Ctrl-C at a place of our choice."""


@pytest.mark.parametrize("source", ["tree", "s1_grd.tar"])
@pytest.mark.parametrize(
    ("at", "changed"),
    [(at, changed) for at in ("a shard", "another shard", "first", "second")
     for changed in (False, True)] + [("index", True), ("manifest", True)],
)  # fmt: skip
def test_stopped_anywhere_and_run_again(built, folder, tmp_path, monkeypatch, source, changed, at):
    if changed:
        source = tmp_path / "changed" / source
        write_tree(tmp_path / "changed" / "tree", "s1", IDS, metadata="none")
        with tarfile.open(tmp_path / "changed" / "s1_grd.tar", "w") as tar:
            tar.add(tmp_path / "changed" / "tree" / "s1", "s1")
    else:
        source = built / source
    damage.SHARDS["two shards"][0](folder)
    whole = shutil.copytree(folder, tmp_path / "whole")
    repair(whole, source=str(source))
    shards = []

    def on_shard(shard):
        shards.append(shard)
        if at == ("a shard", "another shard")[len(shards) - 1]:
            raise StopError

    places = {"first": "s1-000001.tar", "second": "s1-000002.tar", "index": "index.parquet",
              "manifest": "manifest.json"}  # fmt: skip
    if at in places:

        class Stopping:
            def __init__(self, path):
                if path == folder / places[at]:
                    raise StopError
                self.inner = atomic_file(path)

            def __enter__(self):
                return self.inner.__enter__()

            def __exit__(self, *error):
                return self.inner.__exit__(*error)

        for module in ("repair", "reindex"):
            monkeypatch.setattr(f"ssl4eo_stream.shard.{module}.atomic_file", Stopping)
    with pytest.raises(StopError):
        repair(folder, source=str(source), watch=Watch(on_shard=on_shard))
    monkeypatch.undo()
    assert verify(folder).problems
    packed = []
    done = repair(folder, source=str(source), watch=Watch(on_shard=packed.append))
    assert done.left.problems == ()
    assert contents(folder) == contents(whole)
    assert len(packed) == {"a shard": 1}.get(at, 0)


@pytest.mark.slow
def test_ctrl_c_and_the_same_command_again(tmp_path):
    tree, out = tmp_path / "tree", tmp_path / "out"
    write_tree(tree, "s1", [0], dates=1)
    for i in range(1, 100):
        (tree / "s1" / f"{i:07d}").symlink_to(tree / "s1" / "0000000")
    build(tree, out, product="s1", samples_per_shard=5, workers=2)
    good = contents(out)
    for path in sorted(out.glob("*.tar"))[1:]:
        path.unlink()
    command = [sys.executable, "-m", "ssl4eo_stream.commands.shard", "repair", out, "--source",
               tree, "--workers", "2"]  # fmt: skip
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with process:
        deadline = time.monotonic() + 60
        while not list(out.glob(".repair-*/.parts/*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in err
    assert "Traceback" not in err
    assert not (out / "s1-000001.tar").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "19 of them made again; problems left 0" in done.stdout
    assert contents(out) == good
