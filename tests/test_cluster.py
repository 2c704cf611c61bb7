"""The same bytes whoever does the work: processes, Dask's workers, some of which die."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_archive import files_of, packed
from trees import write_tree

from ssl4eo_stream.errors import ClusterError
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.cluster import Cluster, slurm_cluster

pytest.importorskip("distributed", reason="Dask is not installed (pip install .[cluster])")

FLAGS = ["--product", "s2c", "--codec", "jpeg:75", "--samples-per-shard", "4"]
SHARDS = 12


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """48 locations on two dates: twelve shards."""
    folder = tmp_path_factory.mktemp("tree")
    write_tree(folder, "s2c", range(4 * SHARDS), dates=2)
    return folder


@pytest.fixture(scope="module")
def archive(tree, tmp_path_factory):
    """The same as an archive, its members in a random order."""
    path = tmp_path_factory.mktemp("archive") / "s2_l1c.tar.gz"
    path.write_bytes(packed(tree, files_of(tree, order="members"), zipped=True))
    return path


@pytest.fixture(scope="module")
def expected(tree, tmp_path_factory):
    """File name -> sha256, as one process makes them."""
    dest = tmp_path_factory.mktemp("expected")
    build(tree, dest, product="s2c", codec="jpeg:75", samples_per_shard=4, workers=1)
    return hashes(dest)


def hashes(dest):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dest.iterdir()}


def command(*arguments):
    shard = [sys.executable, "-m", "ssl4eo_stream.commands.shard"]
    return [*shard, *map(str, arguments)]


def environment():
    root = Path(__file__).parents[1]
    return {
        **os.environ,
        "PYTHONPATH": str(root),
        "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "error",
    }


def finish(*arguments):
    done = subprocess.run(
        command(*arguments), env=environment(), capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@contextmanager
def process(*arguments):
    with subprocess.Popen(
        [str(argument) for argument in arguments], env=environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as running:  # fmt: skip
        try:
            yield running
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)


@contextmanager
def scheduler(folder):
    """Dask's scheduler as a process of its own."""
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    with process(*dask, "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                 "--scheduler-file", file) as running:  # fmt: skip
        until = time.monotonic() + 60
        while not (file.exists() and file.read_text().strip().endswith("}")):
            assert running.poll() is None, "the scheduler ended"
            assert time.monotonic() < until
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"], running


@contextmanager
def worker(address):
    """One of its workers, without anybody who would start it again."""
    dask = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-nanny"]
    with process(*dask, "--nthreads", "1", "--no-dashboard") as running:
        yield running


def wait_for(dest, *, shards):
    until = time.monotonic() + 120
    while len(list(dest.glob("s2c-*.tar"))) < shards:
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_processes(tree, archive, expected, tmp_path, workers):
    for source in (tree, archive):
        finish("build", source, tmp_path / source.name, *FLAGS, "--workers", workers)
        assert hashes(tmp_path / source.name) == expected


@pytest.mark.slow
def test_workers_of_this_machine(tree, archive, expected, tmp_path):
    for source in (tree, archive):
        finish("build", source, tmp_path / source.name, *FLAGS, "--dask", "local", "--workers", 2)
        assert hashes(tmp_path / source.name) == expected


@pytest.mark.slow
def test_a_worker_that_is_killed(tree, expected, tmp_path):
    dest = tmp_path / "out"
    with scheduler(tmp_path) as (address, _), worker(address) as one, worker(address):
        with process(*command("build", tree, dest, *FLAGS, "--dask", address)) as running:
            wait_for(dest, shards=3)
            os.killpg(one.pid, signal.SIGKILL)
            assert running.wait(timeout=240) == 0
        assert hashes(dest) == expected
        done = finish("stats", dest, "--dask", address)
    assert done.stdout == finish("stats", dest, "--workers", 1).stdout


@pytest.mark.slow
def test_a_scheduler_that_is_killed(tree, expected, tmp_path):
    dest = tmp_path / "out"
    with scheduler(tmp_path) as (address, lost), worker(address):
        with subprocess.Popen(
            command("build", tree, dest, *FLAGS, "--dask", address), env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as running:  # fmt: skip
            wait_for(dest, shards=3)
            os.killpg(lost.pid, signal.SIGKILL)
            error = running.communicate(timeout=240)[1]
        assert running.returncode == 1
        assert "scheduler was lost. Run the same command again" in error
    finish("build", tree, dest, *FLAGS, "--workers", 2)
    assert hashes(dest) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tree", "archive"])
def test_five_interruptions(tree, archive, expected, tmp_path, kind):
    source, dest, codes = {"tree": tree, "archive": archive}[kind], tmp_path / "out", []
    for k in range(5):
        with process(*command("build", source, dest, *FLAGS, "--workers", 2)) as running:
            before = work_done(dest)
            until = time.monotonic() + 60
            while running.poll() is None and work_done(dest) < before + 2:
                assert time.monotonic() < until
                time.sleep(0.005)
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL if k % 2 else signal.SIGINT)
            codes.append(running.wait(timeout=60))
    assert set(codes) <= {0, 130, -signal.SIGKILL}
    assert len(set(codes)) > 1
    finish("build", source, dest, *FLAGS, "--workers", 2)
    assert hashes(dest) == expected


def work_done(dest):
    """Finished shards; of an archive that is still read, steps of 200 KB filed."""
    filed = sum(path.stat().st_size for path in dest.glob(".parts/*.unfinished.tar"))
    return len(list(dest.glob("s2c-*.tar"))) + filed // 200_000


SBATCH = """#!{python}
import subprocess, sys
with open({log!r}, "a") as log:
    log.write(open(sys.argv[-1]).read())
subprocess.Popen(["bash", sys.argv[-1]], start_new_session=True,
                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job 7")
"""


@pytest.mark.slow
def test_jobs_of_slurm(tree, expected, tmp_path):
    (tmp_path / "bin").mkdir()
    log = tmp_path / "jobs"
    for name, text in (
        ("sbatch", SBATCH.format(python=sys.executable, log=str(log))),
        ("scancel", "#!/bin/sh\nexit 0\n"),
    ):
        file = tmp_path / "bin" / name
        file.write_text(text)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
    done = subprocess.run(
        command("build", tree, tmp_path / "out", *FLAGS, "--slurm", "partition=cpu", "cores=2",
                "memory=2GB", "qos=short"),
        env=environment() | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}, cwd=tmp_path,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert hashes(tmp_path / "out") == expected
    script = log.read_text()
    for line in ("#SBATCH -p cpu", "#SBATCH --cpus-per-task=2", "#SBATCH --qos=short"):
        assert line in script


def test_words_of_slurm_reach_the_job():
    cluster = Cluster(slurm=("partition=gpu", "time=01:00:00", "account=eo", "cores=4", "qos=long"))
    job = slurm_cluster(cluster)
    try:
        script = job.job_script()
    finally:
        job.close()
    for line in ("-p gpu", "-t 01:00:00", "-A eo", "--cpus-per-task=4", "--mem=60G", "--qos=long"):
        assert f"#SBATCH {line}" in script


def test_ctrl_c_is_still_told_from_the_end():
    """dask_jobqueue's import makes it a quiet exit with 0."""
    code = (
        "import signal; from ssl4eo_stream.shard.cluster import Cluster, slurm_cluster\n"
        "slurm_cluster(Cluster(slurm=('partition=cpu',))).close()\n"
        "signal.raise_signal(signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "not both"),
        ({"dask": "local", "slurm": ("partition=x",)}, "not both"),
        ({"slurm": ("gpu",)}, "--slurm gpu: write KEY=VALUE"),
        ({"slurm": ("jobs=many",)}, "whole numbers"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ClusterError, match=message):
        Cluster(**arguments)


@pytest.mark.slow
def test_a_scheduler_that_is_not_there(tree, tmp_path):
    done = subprocess.run(
        command("build", tree, tmp_path / "out", *FLAGS, "--dask", "tcp://127.0.0.1:9"),
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
