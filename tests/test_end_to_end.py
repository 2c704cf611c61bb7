"""The main job: torchrun, two ranks, shards on a real S3 server, killed outright and resumed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

ROOT = Path(__file__).parent.parent
FLAGS = [
    "--views.size", "32", "--batch-size", "4", "--method.queue", "16",
    "--method.batch-norm-groups", "2", "--epochs", "2",
    "--workers", "1", "--log-every", "1", "--checkpoint-minutes", "0", "--checkpoint-keep", "3",
]  # fmt: skip
STEPS = 8


def start(url, output, environment, log):
    command = [
        str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "2",
        "recipes/moco_rn50.py", "--data", url, "--output", str(output), *FLAGS,
    ]  # fmt: skip
    return subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment | {"OMP_NUM_THREADS": "1"},
        stdout=log, stderr=log, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def finish(process, log_path):
    assert process.wait(timeout=200) == 0, log_path.read_text()[-4000:]


def kill_all(process):
    """SIGKILL to torchrun, its ranks and their workers, in no order that they could notice."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=20)
    process.wait()


def leaves(value, path=""):
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}.{number}")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_resumed_equals_never_stopped(s3, shards, tmp_path):
    url = s3.upload(shards, "end-to-end/s2c")
    environment = s3.environment()
    log_path = tmp_path / "log.txt"
    final = f"checkpoint-{STEPS:06d}.pt"
    with log_path.open("a") as log:
        finish(start(url, tmp_path / "straight", environment, log), log_path)
        process = start(url, tmp_path / "killed", environment, log)
        deadline = time.monotonic() + 200
        while not (tmp_path / "killed" / "checkpoint-000003.pt").exists():
            assert process.poll() is None, log_path.read_text()[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        kill_all(process)
        assert not (tmp_path / "killed" / final).exists()
        finish(start(url, tmp_path / "killed", environment, log), log_path)
    straight = torch.load(tmp_path / "straight" / final, weights_only=True)
    resumed = torch.load(tmp_path / "killed" / final, weights_only=True)
    for part in ("model", "optimizer"):
        expected, got = dict(leaves(straight[part])), dict(leaves(resumed[part]))
        assert expected.keys() == got.keys()
        assert len(expected) > 100
        different = [name for name, value in expected.items() if not torch.equal(value, got[name])]
        assert not different
    assert straight["loader"] == resumed["loader"]
    secret = environment["AWS_SECRET_ACCESS_KEY"]
    assert secret not in log_path.read_text()
