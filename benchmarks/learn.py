"""Does each recipe learn from real patches in a few hundred steps of a small network?

Run: `python benchmarks/learn.py --data SHARDS --eurosat EuroSAT_RGB.tar`: shards of Sentinel-2 L1C,
and EuroSAT as its authors publish it.

Every recipe trains a small network on B4, B3, B2 by its own flags, twice: once undisturbed, once
killed (SIGKILL) after a third and after two thirds of the steps and started again with the same
command. Read from what the undisturbed run writes: the mean loss of ten steps, after the settling
(MoCo v2's queue fills, DINO's centre forms; until then their losses rise) and at the end; the
spread of features (1: they point anywhere, 0: all alike); DINO's entropy beside the log of its
prototypes; and what 20 nearest neighbours in EuroSAT know, asked as drawn and as trained
(`--probe.eurosat`). `same`: whether the killed run's weights are the other's, bit by bit.
A network that has seen 48 places for some minutes is no good one; the question is whether it has
moved in the right direction.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from report import table, write_result
from step import ON_CPU, PAPER, RECIPES

from ssl4eo_stream.train.checkpoint import Checkpoint, checkpoints

QUESTION = "Does each recipe learn from real patches in a few hundred steps of a small network?"
SMALL_RUN = {
    "moco_rn50": ("--method.queue", "32"),
    "moco_vits16": ("--optimizer.lr", "5e-3"),
    "dino_rn50": ("--optimizer.name", "adamw", "--optimizer.lr", "8e-3"),
    "dino_vits16": (),
    "mae_vits16": ("--optimizer.lr", "1.5e-2"),
    "data2vec_vits16": (),
}
"""On top of step.py's: a recipe's own rate is for 100 epochs of large batches, not for this. DINO's
SGD takes longer than 200 steps to more than centre: its loss then rises, at any rate tried."""
AVERAGED = 10
"""Steps of one mean."""


def command(name: str, output: Path, options: argparse.Namespace) -> list[str]:
    """Return what trains a recipe."""
    return [
        sys.executable, str(RECIPES / f"{name}.py"), "--data", options.data, "--output",
        str(output), "--device", "cpu", "--views.size", "64", "--select.bands", "B4", "B3", "B2",
        "--batch-size", str(options.batch_size), "--workers", str(options.workers),
        "--max-steps", str(options.steps), "--epochs", str(options.epochs), "--log-every",
        str(AVERAGED), "--schedule.warmup-epochs", "0", "--checkpoint-minutes", "0.2",
        "--picture-steps", "0", "--probe.eurosat", str(options.eurosat), "--probe.every-epochs",
        str(options.epochs), *ON_CPU[name], *SMALL_RUN[name], *options.flags,
    ]  # fmt: skip


def trained(arguments: list[str]) -> None:
    """Train to the end."""
    subprocess.run(arguments, check=True, capture_output=True, env=environment())


def killed(arguments: list[str], output: Path, *, at_step: int) -> int:
    """Train until a step is recorded and saved, kill, and return the newest checkpoint's step."""
    with subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment()
    ) as process:
        while not any(int(path.stem.split("-")[1]) >= at_step for path in checkpoints(output)):
            if process.poll() is not None:
                raise RuntimeError(f"{arguments[1]} ended with {process.returncode} by itself.")
            time.sleep(0.05)
        process.kill()
    return int(checkpoints(output)[0].stem.split("-")[1])


def environment() -> dict[str, str]:
    """Return the environment of a run: this package, one way of adding up."""
    return {**os.environ, "PYTHONPATH": str(RECIPES.parent)}


def learn(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one recipe and return its row."""
    with tempfile.TemporaryDirectory() as scratch:
        whole, broken = Path(scratch, "whole"), Path(scratch, "broken")
        trained(command(name, whole, options))
        lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
        again = command(name, broken, options)
        kills = [
            killed(again, broken, at_step=options.steps * third // 3)
            for third in ((1, 2) if options.kills else ())
        ]
        trained(again)
        one, other = (Checkpoint.read(checkpoints(each)[0]) for each in (whole, broken))
        same = one.model.keys() == other.model.keys() and all(
            torch.equal(value, other.model[key]) for key, value in one.model.items()
        )
    drawn, *steps = lines
    settled = next(line for line in steps if line["step"] >= options.settle)
    last = steps[-1]
    row = {
        "recipe": name, "network": one.run["backbone"], "steps": one.step,
        f"loss at {settled['step']}": round(settled["loss"], 3),
        "at the end": round(last["loss"], 3),
        "k-NN as drawn %": round(100 * drawn["knn_eurosat"], 1),
        "trained %": round(100 * last["knn_eurosat"], 1),
        "spread": f"{steps[0].get('spread', math.nan):.2f} → {last.get('spread', math.nan):.2f}",
        "killed at": ", ".join(map(str, kills)), "same": "yes" if same else "NO",
    }  # fmt: skip
    if "teacher_entropy" in last:
        most = math.log(one.run["method"]["prototypes"])
        first = steps[0]["teacher_entropy"]
        row["entropy"] = f"{first:.2f} → {last['teacher_entropy']:.2f} of {most:.2f}"
    return row


def main() -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("recipes", nargs="*", help="all six if not given")
    parser.add_argument("--data", required=True, help="folder of shards")
    parser.add_argument("--eurosat", type=Path, required=True, help="folder, tar or zip")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--settle", type=int, default=20, help="step of the first loss compared")
    parser.add_argument("--epochs", type=int, default=100, help="that the schedule spans")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kills", type=int, choices=[0, 1], default=1, help="0: never kill")
    parser.add_argument("--flags", nargs="*", default=[], help="of every recipe, last of all")
    options = parser.parse_args()
    rows = []
    for name in options.recipes or PAPER:
        rows.append(learn(name, options))
        print(table(rows[-1:]), flush=True)
    print(table(rows))
    print(write_result("learn", question=QUESTION, repeats=1, rows=rows).name)


if __name__ == "__main__":
    main()
