"""Draw what a run saw and how it went: sample views in false colour, and loss with samples/s.

Run: `python tools/draw.py shards/s2c runs/moco_rn50 --output pictures`
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import numpy as np
import tyro
from jaxtyping import UInt8

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

FALSE_COLOUR = ("B8", "B4", "B3")
"""Near infrared, red, green as red, green, blue: vegetation is red."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Draw views.png and training.png."""

    shards: Annotated[str, tyro.conf.Positional]
    """Folder of shards, a path or URL."""
    run: Annotated[Path, tyro.conf.Positional]
    """Output folder of a run, with its metrics.jsonl."""
    output: Path = Path()
    """Where the pictures go."""
    locations: int = 6
    """Locations to show."""
    size: int = 224
    """Side of the views in pixels."""


def stretch(image: UInt8[np.ndarray, "h w 3"]) -> np.ndarray:
    """Return an image with 2 % of each band's pixels saturated at either end."""
    low, high = np.percentile(image, (2, 98), axis=(0, 1))
    return np.clip((image - low) / np.maximum(high - low, 1), 0, 1)


def draw_views(options: Options) -> Path:
    """Draw the two views of some locations, one location per column."""
    views = MoCoViews(size=options.size)
    with StreamLoader(options.shards, views=views, batch_size=options.locations) as loader:
        names = [band.name for band in loader.bands]
        bands = [names.index(name) for name in FALSE_COLOUR]
        batch = next(iter(loader))
    figure, axes = plt.subplots(
        2, options.locations, figsize=(2 * options.locations, 5), squeeze=False
    )
    for row, view in enumerate(batch.views):
        for column, key in enumerate(batch.keys):
            axis = axes[row, column]
            axis.imshow(stretch(view[column, bands].permute(1, 2, 0).numpy()))
            axis.set_axis_off()
            axis.set_title(f"{key}, date {int(batch.dates[column, row])}", fontsize=8)
    figure.suptitle("Two views of each location, false colour (B8, B4, B3)", fontsize=10)
    return save(figure, options.output / "views.png")


def draw_training(options: Options) -> Path:
    """Draw loss and throughput over the steps of a run."""
    lines = (options.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    steps = [row["step"] for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    left.plot(steps, [row["loss"] for row in rows], color="tab:blue")
    left.set(
        xlabel="step",
        ylabel="loss (InfoNCE)",
        title="Loss (it first rises, while the queue fills with real keys)",
    )
    right.plot(steps, [row["samples_per_second"] for row in rows], color="tab:green")
    right.set(xlabel="step", ylabel="locations per second", title="Throughput", ylim=(0, None))
    wait = right.twinx()
    wait.plot(steps, [100 * row["wait_share"] for row in rows], color="tab:red", linewidth=0.8)
    wait.set(ylim=(0, 100))
    wait.set_ylabel("time waiting for data, %", color="tab:red")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    return save(figure, options.output / "training.png")


def save(figure: Figure, path: Path) -> Path:
    """Write a figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_layout_engine("constrained")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


if __name__ == "__main__":
    chosen = tyro.cli(Options)
    print(*(path for path in (draw_views(chosen), draw_training(chosen))), sep="\n")
