"""Progress of a run: one line for people, `metrics.jsonl` for programs, TensorBoard for curves."""

import json
import logging
import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ssl4eo_stream.stream.verdict import KEEPS_UP, verdict

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


class Report:
    """Writes a run's numbers; only rank 0 has one.

    Args:
        folder: The run's output.
        step: Step that the run goes on from: what was recorded past it is dropped, so that every
            step is in the file once.
        total_steps: Steps of the whole run.
        epochs: Epochs of the whole run.
    """

    def __init__(self, folder: Path, *, step: int, total_steps: int, epochs: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._total_steps, self._epochs = total_steps, epochs
        drop_after(folder / METRICS, step=step or -1)  # a new run keeps nothing, not even step 0
        self._file = (folder / METRICS).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(
        self,
        step: int,
        *,
        epoch: int,
        seconds_per_step: float,
        values: dict[str, float],
        stats: Mapping[str, float] | None = None,
    ) -> None:
        """Record one step's numbers.

        Args:
            step: Steps done.
            epoch: Epoch of the step, from 0.
            seconds_per_step: Mean since the last call, for the time left.
            values: Numbers by name; `wait_share` is the part of the time spent waiting for data,
                mean over the ranks.
            stats: What rank 0's loader said of the same time: where its readers' time went. With
                it the file says what bounds the run, and so does the log line if ranks wait.
        """
        found = verdict({**stats, "wait_share": values["wait_share"]}) if stats else None
        bound = {"verdict": found.bound} if found else {}
        self._keep(step, {"epoch": epoch, **values, **bound})
        left = timedelta(seconds=round(seconds_per_step * (self._total_steps - step)))
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        waits = f"  {found.bound}" if found and values["wait_share"] > KEEPS_UP else ""
        logger.info(
            "epoch %d/%d  step %d/%d  %s%s  ETA %s",
            epoch + 1, self._epochs, step, self._total_steps, numbers, waits, left,
        )  # fmt: skip

    def note(self, step: int, *, values: Mapping[str, float]) -> None:
        """Record numbers that belong to no step's training."""
        self._keep(step, values)
        logger.info("step %d  %s", step, "  ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def picture(self, name: str, image: Float[Tensor, "3 h w"], *, step: int) -> None:
        """Show a picture, 0-1, in TensorBoard."""
        self._board.add_image(name, image, step)
        self._board.flush()

    def _keep(self, step: int, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Bring everything to disk."""
        self._file.close()
        self._board.close()

    def __enter__(self) -> "Report":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def drop_after(path: Path, *, step: int) -> None:
    """Drop the lines of a metrics file past a step, and one that a kill cut in the middle."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
