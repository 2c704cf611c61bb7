"""Learning rates over time, as pure arithmetic."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A linear warm-up from zero, then half a cosine down to the floor."""

    every: Literal["epoch", "step"] = "epoch"
    """How often the rate changes: MoCo-v2 keeps it for whole epochs."""
    warmup_epochs: int = 0
    """Epochs in which the rate rises from zero to its base."""
    floor: float = 0.0
    """Rate that the cosine ends in, of the same unit as the base."""

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0 or self.floor < 0:
            raise ValueError(
                f"--schedule.warmup-epochs {self.warmup_epochs} and --schedule.floor {self.floor} "
                "must not be negative."
            )

    def rate(self, base: float, *, epoch: float, epochs: int) -> float:
        """Return the rate of one step.

        Args:
            base: Rate after the warm-up.
            epoch: Epochs done before this step, with their fraction.
            epochs: Epochs of the whole run.
        """
        epoch = math.floor(epoch) if self.every == "epoch" else epoch
        if epoch < self.warmup_epochs:
            return base * epoch / self.warmup_epochs
        share = (epoch - self.warmup_epochs) / (epochs - self.warmup_epochs)
        return self.floor + (base - self.floor) * 0.5 * (1 + math.cos(math.pi * share))
