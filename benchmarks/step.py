"""How many samples/s does each recipe's step train, with data for nothing and on the stream?

Run: `python benchmarks/step.py --all --data SHARDS` (Sentinel-2 L1C). On a GPU every recipe runs as
its file says, at `--batch-size`; on a CPU with a small network and small views, which says only
that it works. `free`: steps on one batch that is on the device. `streamed`: the same steps on the
StreamLoader's batches (`ssl4eo-bench headspace`), left out without --data. GFLOP: what PyTorch's
counter finds in a step, two for a multiplication and addition; the share of peak is that of dense
bf16 of the device's data sheet. `paper`: samples/s per A100 of SSL4EO-S12's own runs (hours of
table II of arXiv:2211.07044, 100 epochs of 251,079 locations on 4 GPUs).
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from report import summary, table, write_result
from torch.utils.flop_counter import FlopCounterMode

from ssl4eo_stream.commands.bench_headspace import headspace, load_recipe
from ssl4eo_stream.stream.loader import Batch
from ssl4eo_stream.train.run import Run, from_command_line
from ssl4eo_stream.train.trainer import Trainer

QUESTION = "How many samples/s does each recipe's step train?"
RECIPES = Path(__file__).parents[1] / "recipes"
PAPER = {"moco_rn50": 97, "moco_vits16": 72, "dino_rn50": 70, "dino_vits16": 70,
         "mae_vits16": 249, "data2vec_vits16": 124}  # fmt: skip
PEAK_TERAFLOPS = {"H200": 989, "H100": 989, "A100": 312}
"""Dense bf16, NVIDIA's data sheets."""
TINY = ("--backbone", "vit_tiny_patch16")
DINO = ("--method.prototypes", "64", "--method.hidden", "64", "--method.bottleneck", "32",
        "--views.local-size", "32", "--views.local-crops", "4")  # fmt: skip
ON_CPU = {
    "moco_rn50": ("--backbone", "resnet18", "--method.queue", "1024"),
    "moco_vits16": (*TINY, "--method.hidden", "256"),
    "dino_rn50": ("--backbone", "resnet18", *DINO),
    "dino_vits16": (*TINY, *DINO),
    "mae_vits16": (*TINY, "--method.decoder-dim", "64", "--method.decoder-depth", "2",
                   "--method.decoder-heads", "4"),
    "data2vec_vits16": (*TINY, "--method.masked", "9", "--method.smallest-block", "2",
                        "--method.largest-block", "9"),
}  # fmt: skip
CHANNELS = 13


class OneBatch:
    """Hands out one batch of noise, on the device, again and again."""

    def __init__(self, run: Run[Any], device: torch.device) -> None:
        self.channels, self.epoch = CHANNELS, 0
        shapes = run.views.shapes(CHANNELS)
        size = run.batch_size
        self.views = [
            torch.randint(0, 256, (size, *shape), dtype=torch.uint8, device=device)
            for shape in shapes
        ]

    def __len__(self) -> int:
        return 980

    def __iter__(self) -> Iterator[Batch]:
        raise AssertionError("steps are given their batch")

    def state_dict(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Ignore it."""

    def stats(self) -> dict[str, float]:
        """Return that nobody waited."""
        return {"wait_share": 0.0}


def flags(name: str, options: argparse.Namespace, *, cuda: bool) -> list[str]:
    """Return a recipe's flags."""
    size = options.batch_size or (256 if cuda else 16)
    found = ["--batch-size", str(size), "--workers", str(options.workers), *options.flags]
    if not cuda:
        found += ["--views.size", "64", "--device", "cpu", *ON_CPU[name]]
    return found


def free(name: str, options: argparse.Namespace, *, device: torch.device) -> dict[str, Any]:
    """Return what steps on one batch come to."""
    cuda = device.type == "cuda"
    default, build = load_recipe(RECIPES / f"{name}.py")
    with tempfile.TemporaryDirectory() as scratch:
        arguments = ["--data", "nowhere", "--output", scratch, *flags(name, options, cuda=cuda)]
        run = replace(from_command_line(default, arguments=arguments), output=Path(scratch))
        loader = OneBatch(run, device)
        plain = replace(run, compile="off")  # the counter does not see into compiled kernels
        trainer = Trainer(plain, build, loader=loader, device=device)
        with FlopCounterMode(display=False) as counter:
            trainer.advance(loader.views)
        gigaflops = counter.get_total_flops() / 1e9 / run.batch_size
        trainer = Trainer(run, build, loader=loader, device=device)
        for _ in range(options.steps):  # compiles, chooses kernels
            trainer.advance(loader.views)
        rates = []
        for _ in range(options.repeats):
            start = now(device)
            for _ in range(options.steps):
                trainer.advance(loader.views)
            rates.append(options.steps * run.batch_size / (now(device) - start))
    rate = summary(rates)
    row: dict[str, Any] = {
        "recipe": name, "network": run.backbone, "pixels": run.views.size,
        "batch": run.batch_size, "free, samples/s": rate["median"],
        "quartiles": f"{rate['low']}–{rate['high']}", "GFLOP/sample": round(gigaflops, 1),
        "paper, A100": PAPER[name],
    }  # fmt: skip
    if cuda:
        row["memory GB"] = round(torch.cuda.max_memory_allocated(device) / 1e9, 1)
        torch.cuda.reset_peak_memory_stats(device)
        kind = torch.cuda.get_device_name(device)
        for part, peak in PEAK_TERAFLOPS.items():
            if part in kind:
                row["% of peak"] = round(100 * rate["median"] * gigaflops / peak / 1000, 1)
    return row


def streamed(name: str, options: argparse.Namespace, *, device: torch.device) -> dict[str, Any]:
    """Return what steps on the stream come to."""
    chosen = flags(name, options, cuda=device.type == "cuda")
    steps = str(max(5, options.steps))
    result, _ = headspace(
        [str(RECIPES / f"{name}.py"), "--data", options.data, "--steps", steps, *chosen]
    )
    return {
        "streamed, samples/s": result["samples_per_second_streamed"],
        "waiting %": round(100 * result["wait_share"], 2),
    }


def now(device: torch.device) -> float:
    """Return the time once the device has done all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("recipes", nargs="*", choices=[*PAPER, []], help="which; or --all")
    parser.add_argument("--all", action="store_true", help="all six")
    parser.add_argument("--data", default="", help="folder of shards, for the stream")
    parser.add_argument("--batch-size", type=int, help="256 on a GPU, 16 on a CPU if not given")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="of one repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--flags", nargs="*", default=[], help="of every recipe, last of all")
    options = parser.parse_args()
    names = list(PAPER) if options.all else options.recipes
    if not names:
        parser.error("name recipes, or give --all")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    rows = []
    for name in names:
        row = free(name, options, device=device)
        gc.collect()
        if options.data:
            row |= streamed(name, options, device=device)
        rows.append(row)
        print(table([row]), flush=True)
    print(table(rows))
    print(write_result("step", question=QUESTION, repeats=options.repeats, rows=rows).name)


if __name__ == "__main__":
    main()
