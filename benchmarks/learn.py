"""Does each recipe learn from real patches in a few hundred steps of a small network?

Run: `python benchmarks/learn.py --data SHARDS --eurosat EuroSAT_RGB.tar`: shards of Sentinel-2 L1C,
and EuroSAT's RGB images as `…/CLASS/NAME.jpg` in a tar.

Every recipe trains a small network on B4, B3, B2 by its own flags, and what it writes is read:
the loss and the spread of features (1: they point anywhere, 0: all alike) at the start and the end,
DINO's entropy beside the log of its prototypes. Then features of EuroSAT (bytes scaled to the
shards' reflectance, side 64) from the network as drawn and as trained: 20 nearest neighbours by
cosine (scikit-learn), half of the images to ask and half to answer, the same halves for everybody.
A network that has seen 48 places for a few minutes is no good one; the question is whether it has
moved in the right direction.
"""

import argparse
import io
import json
import math
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import table, write_result
from sklearn.neighbors import KNeighborsClassifier
from step import ON_CPU, PAPER, RECIPES

from ssl4eo_stream.commands.bench_headspace import load_recipe
from ssl4eo_stream.train.checkpoint import Checkpoint, checkpoints
from ssl4eo_stream.train.loop import train
from ssl4eo_stream.train.run import from_command_line

QUESTION = "Does each recipe learn from real patches in a few hundred steps of a small network?"
EUROSAT_DN = 2750
"""EuroSAT's RGB images show digital numbers 0-2750 as 0-255 (its authors' rendering)."""
SHARDS_DN = 10_000
"""Digital number of byte 255 in shards."""
NEIGHBOURS = 20


def eurosat(path: Path) -> tuple[torch.Tensor, np.ndarray]:
    """Return images (N, 3, 64, 64) in the shards' bytes, and their classes."""
    images, classes = [], []
    with tarfile.open(path) as tar:
        for entry in sorted(tar, key=lambda each: each.name):
            if entry.name.endswith(".jpg"):
                file = tar.extractfile(entry)
                assert file is not None
                images.append(np.asarray(Image.open(io.BytesIO(file.read()))))
                classes.append(entry.name.split("/")[-2])
    scaled = np.rint(np.stack(images) * (EUROSAT_DN / SHARDS_DN)).astype(np.uint8)
    return torch.from_numpy(scaled).permute(0, 3, 1, 2), np.array(classes)


@torch.no_grad()
def accuracy(backbone: torch.nn.Module, images: torch.Tensor, classes: np.ndarray) -> float:
    """Return the share of images whose neighbours' features know their class."""
    backbone.eval()
    features = torch.cat([backbone(part.float() / 255) for part in images.split(100)])
    features = features if features.ndim == 2 else features[:, 0]
    unit = torch.nn.functional.normalize(features, dim=1).numpy()
    ask = np.random.default_rng(0).permutation(len(unit)) % 2 == 0
    model = KNeighborsClassifier(NEIGHBOURS, weights="distance").fit(unit[~ask], classes[~ask])
    return float(model.score(unit[ask], classes[ask]))


def learn(name: str, options: argparse.Namespace, test: tuple[Any, Any]) -> dict[str, Any]:
    """Train one recipe and return its row."""
    default, build = load_recipe(RECIPES / f"{name}.py")
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [
            "--data", options.data, "--output", scratch, "--device", "cpu", "--views.size", "64",
            "--select.bands", "B4", "B3", "B2", "--batch-size", str(options.batch_size),
            "--workers", str(options.workers), "--max-steps", str(options.steps),
            "--log-every", "10", "--schedule.warmup-epochs", "0", "--epochs", str(options.epochs),
            *ON_CPU[name], *options.flags,
        ]  # fmt: skip
        run = replace(from_command_line(default, arguments=arguments), output=Path(scratch))
        torch.manual_seed(run.seed)
        drawn = accuracy(build(run, 3).backbone, *test)
        train(run, build)
        saved = Checkpoint.read(checkpoints(Path(scratch))[0])
        method: Any = build(run, 3)
        method.load_state_dict(saved.model)
        lines = [json.loads(line) for line in (Path(scratch) / "metrics.jsonl").open()]
    first, last = lines[0], lines[-1]
    row = {
        "recipe": name, "network": run.backbone, "steps": saved.step,
        "loss, first 10": round(first["loss"], 3), "last 10": round(last["loss"], 3),
        "k-NN as drawn %": round(100 * drawn, 1),
        "trained %": round(100 * accuracy(method.backbone, *test), 1),
    }  # fmt: skip
    for metric in ("spread", "teacher_entropy", "top1"):
        if metric in last:
            row[metric] = f"{first[metric]:.2f} → {last[metric]:.2f}"
    if "teacher_entropy" in last:
        row["of at most"] = round(math.log(run.method.prototypes), 2)
    return row


def main() -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("recipes", nargs="*", help="all six if not given")
    parser.add_argument("--data", required=True, help="folder of shards")
    parser.add_argument("--eurosat", type=Path, required=True, help="tar of RGB images")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=100, help="that the schedule spans")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--flags", nargs="*", default=[], help="of every recipe, last of all")
    options = parser.parse_args()
    test = eurosat(options.eurosat)
    rows = []
    for name in options.recipes or PAPER:
        rows.append(learn(name, options, test))
        print(table(rows[-1:]), flush=True)
    print(table(rows))
    print(write_result("learn", question=QUESTION, repeats=1, rows=rows).name)


if __name__ == "__main__":
    main()
