"""`ssl4eo-bench`: how fast the stream is here, and what it waits for."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.errors import Ssl4eoError
from ssl4eo_stream.machine import environment
from ssl4eo_stream.stream.loader import StreamLoader
from ssl4eo_stream.stream.reader import Views

Recipe = Literal["moco_rn50"]


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Stream a folder of shards without training, and report samples/s and where the time goes.

    Storage credentials come from the environment (AWS_*, GOOGLE_*, AZURE_*). The first seconds,
    in which workers start and the first blocks arrive, are not counted. Example:

        ssl4eo-bench loader s3://bucket/ssl4eo/s2c --workers 8 --seconds 30 --json here.json
    """

    url: Annotated[str, tyro.conf.Positional]
    """Folder of shards: s3://…, gs://…, az://…, http(s)://…, or a path."""
    recipe: Recipe = "moco_rn50"
    """Whose views to make."""
    batch_size: int = 64
    """Locations per batch."""
    workers: int = 2
    """Loader processes; 0 loads in this one."""
    seconds: float = 30.0
    """How long to measure."""
    seed: int = 0
    """Decides order and augmentation."""
    json: Path | None = None
    """Also write the result, with machine and versions, to this file."""


def views_of(recipe: Recipe) -> Views:
    """Return the views of a recipe."""
    match recipe:
        case "moco_rn50":
            return MoCoViews(size=224)


def peak_megabytes(pids: list[int]) -> float | None:
    """Return the greatest peak resident set of some processes, or None where nothing tells."""
    peaks = []
    for pid in pids:
        status = Path(f"/proc/{pid}/status")
        if not status.exists():
            return None
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        peaks.append(int(fields["VmHWM"].split()[0]) * 1024 / 1e6)
    return max(peaks, default=None)


def measure(options: Loader) -> dict[str, Any]:
    """Stream for the time asked for.

    Raises:
        StorageError: The shards cannot be read.
        ShardError: They are not a finished data set, or damaged.
    """
    with (
        StreamLoader(
            options.url,
            views=views_of(options.recipe),
            batch_size=options.batch_size,
            seed=options.seed,
            workers=options.workers,
        ) as loader,
        tqdm(unit=" samples", desc="streaming", disable=None) as bar,
    ):
        warm_batches = 2 * max(1, options.workers)
        batches = 0
        deadline = None
        while deadline is None or time.monotonic() < deadline:
            for batch in loader:
                batches += 1
                bar.update(len(batch.keys))
                if deadline is None and batches == warm_batches:
                    loader.stats()
                    deadline = time.monotonic() + options.seconds
                if deadline is not None and time.monotonic() >= deadline:
                    break
        stats = loader.stats()
        return {
            "url": loader.url,
            "recipe": options.recipe,
            "product": loader.manifest.product,
            "codec": loader.manifest.codec,
            "batch_size": options.batch_size,
            "workers": options.workers,
            "seconds": options.seconds,
            **{name: round(value, 4) for name, value in stats.items()},
            "worker_peak_megabytes": peak_megabytes(loader.worker_pids),
            **environment(),
        }


def summary(result: dict[str, Any]) -> str:
    """Return the result as one line."""
    shares = {name.removeprefix("share_"): value
              for name, value in result.items() if name.startswith("share_")}  # fmt: skip
    stages = ", ".join(
        f"{name} {100 * share:.0f} %"
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    )
    return (
        f"{result['samples_per_second']:.1f} samples/s, {result['megabytes_per_second']:.1f} MB/s, "
        f"{result['bytes_per_sample'] / 1000:.1f} kB a sample; the readers' time: {stages}"
    )


def main() -> int:
    """Run the console script; returns 1 where the stream fails, 2 on a wrong flag."""
    options = tyro.extras.subcommand_cli_from_dict(
        {"loader": Loader}, description="Measure streaming on this machine."
    )
    try:
        result = measure(options)
    except (Ssl4eoError, ValueError) as error:
        sys.stderr.write(f"ssl4eo-bench: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("ssl4eo-bench: stopped.\n")
        return 130
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(summary(result) + "\n")
    return 0
