"""Downloads that are killed, that fail, that meet at one DEST: always the same files."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_collect_tree import digests

ROOT = Path(__file__).parent.parent
N = 40


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "plan.csv"
    rows = [f"{i},{9.2 + 0.03 * i:.6f},48.2" for i in range(90)]
    path.write_text("\n".join(["id,lon,lat", *rows]) + "\n")
    return path


def start(plan, dest, *more, failing=0.0, wait_seconds=0.02):
    words = [str(word) for word in (plan, dest, N, failing, wait_seconds, *more)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.collect_process", *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process):
    said, _ = process.communicate(timeout=200)
    return process.returncode, said


@pytest.fixture(scope="module")
def straight(plan, tmp_path_factory):
    """Files of runs that nothing happened to."""
    made = {}
    for way in ("", "--shards"):
        folder = tmp_path_factory.mktemp("straight")
        code, said = finish(start(plan, folder, way, wait_seconds=0))
        assert code == 0, said
        made[way] = digests(folder)
    assert len({path.split("/")[1] for path in made[""]}) == N
    return made


def until(condition, process):
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        if process.poll() is not None:
            return
        time.sleep(0.01)


def progress(dest):
    """How much there is on the disk."""
    while True:
        with contextlib.suppress(FileNotFoundError):  # what is unfinished comes and goes
            return sum(path.stat().st_size for path in dest.rglob("*.tar")) + 10**6 * len(
                [*dest.glob("s1/*/*/metadata.json")]
            )


@pytest.mark.slow
@pytest.mark.parametrize("way", ["", "--shards"])
def test_killed_five_times_while_one_request_in_ten_fails(plan, straight, tmp_path, way):
    kills = 0
    for _ in range(100):
        before = progress(tmp_path)
        process = start(plan, tmp_path, way, failing=0.1, wait_seconds=0.05)
        if kills < 5:
            until(lambda at=before: progress(tmp_path) > at, process)
            process.kill()
            code, said = finish(process)
            kills += code == -signal.SIGKILL
        else:
            code, said = finish(process)
            assert code in (0, 1), said
        if code == 0:
            break
    assert code == 0, said
    assert kills == 5
    assert digests(tmp_path) == straight[way]
    assert not [*tmp_path.glob(".unfinished/*")]


@pytest.mark.slow
def test_three_at_once_of_which_one_is_killed(plan, straight, tmp_path):
    processes = [start(plan, tmp_path) for _ in range(3)]
    until(lambda: progress(tmp_path) > 5 * 10**6, processes[0])
    processes[0].kill()
    results = [finish(process) for process in processes]
    assert [code for code, _ in results] == [-signal.SIGKILL, 0, 0], results
    assert digests(tmp_path) == straight[""]
    assert f"locations {N} of {N}" in results[1][1]


def test_a_stop_signal_ends_it_within_seconds(plan, tmp_path):
    process = start(plan, tmp_path, wait_seconds=0.2)
    until(lambda: [*tmp_path.glob("*.sqlite")], process)
    time.sleep(0.5)
    process.terminate()
    try:
        process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
