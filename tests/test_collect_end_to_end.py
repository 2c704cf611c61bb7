"""From a plan to two steps of training, by the commands, Earth Engine's client and a stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_collected_sharded_streamed_and_trained_on_whatever_happens(tmp_path):
    command = [sys.executable, "benchmarks/collect.py", "--scratch", str(tmp_path / "scratch"),
               "--n", "8", "--results", str(tmp_path)]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (result,) = tmp_path.glob("collect_*.json")
    alone, killed, faults, direct = json.loads(result.read_text())["rows"]
    assert alone["locations"] == killed["locations"] == faults["locations"] == 8
    assert alone["sha256"] == killed["sha256"] == faults["sha256"]
    assert alone["files"] == 8 * 4 * (13 + 12 + 2 + 3)
    assert killed["kills"] == 5
    assert alone["of them twice"] == direct["of them twice"] == 0
    assert faults["requests for pixels"] > alone["requests for pixels"]
