"""Every recipe, small: its loss falls, and its features do not become one.

DINO's loss cannot fall in so few steps: it begins low, as the teacher that was drawn happens to
give sharp answers, and rises towards the log of the prototypes' number while the centre forms. What
must not happen is that the teacher always gives one answer (entropy 0), or all answers alike.
"""

import json
import math
import sys

import pytest
from learn import SMALL_RUN
from step import ON_CPU
from test_recipes import ROOT, launch

STEPS = 40
PROTOTYPES = 64
FLAGS = [
    "--device", "cpu", "--views.size", "64", "--select.bands", "B4", "B3", "B2", "--batch-size",
    "8", "--workers", "0", "--max-steps", str(STEPS), "--log-every", "10",
    "--schedule.warmup-epochs", "0", "--checkpoint-minutes", "100", "--picture-steps", "0",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ON_CPU)
def test_losses_fall_and_nothing_collapses(recipe, shards, tmp_path):
    launch([
        sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), "--data", str(shards), "--output",
        str(tmp_path), *FLAGS, *ON_CPU[recipe], *SMALL_RUN[recipe],
        *(["--views.local-crops", "2"] if recipe.startswith("dino") else []),
    ])  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(10, STEPS + 1, 10))
    assert rows[-1]["spread"] > 0.005
    if recipe.startswith("dino"):
        assert 0.05 < rows[-1]["teacher_entropy"] / math.log(PROTOTYPES) < 0.999
    else:
        assert rows[-1]["loss"] < max(row["loss"] for row in rows)
