"""The Slurm template, with stand-ins for Slurm's programs."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "slurm_train.sbatch"
SCONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" > requeued; fi
"""
SRUN = """#!/usr/bin/env bash
echo "$@" > command
trap 'echo saved > saved; exit 1' USR1
touch began
for _ in $(seq 200); do
  [ -e end ] && exit "$(cat end)"
  sleep 0.05
done
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN), ("activate", "")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    process = subprocess.Popen(
        ["bash", str(SCRIPT), "recipes/moco_rn50.py", "--data", "s3://bucket/a b"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_NNODES": "2",
             "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_GPUS_ON_NODE": "8",
             "SSL4EO_VENV": str(tmp_path)},
    )  # fmt: skip
    until = time.monotonic() + 20
    while not (tmp_path / "began").exists():
        assert process.poll() is None, "the script ended"
        assert time.monotonic() < until
        time.sleep(0.01)
    yield tmp_path, process
    process.kill()
    process.wait()


@pytest.mark.parametrize("code", [0, 3])
def test_the_job_ends_as_the_training_does(job, code):
    folder, process = job
    (folder / "end").write_text(str(code))
    assert process.wait(timeout=20) == code
    assert not (folder / "requeued").exists()
    command = (folder / "command").read_text()
    assert "--nnodes 2 --nproc-per-node 8" in command
    assert "--rdzv-endpoint node1:29500" in command
    assert command.rstrip().endswith("recipes/moco_rn50.py --data s3://bucket/a b")


def test_a_job_that_is_told_of_its_end_saves_and_queues_again(job):
    folder, process = job
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=20) == 0
    assert (folder / "saved").exists()
    assert (folder / "requeued").read_text().split() == ["requeue", "7"]
