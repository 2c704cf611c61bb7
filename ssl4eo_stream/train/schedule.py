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
    warmup_reaches_base: bool = False
    """Whether the last step of the warm-up has the full rate, as in DINO's and data2vec's tables,
    or the first step after it, as in MoCo-v3 and MAE."""
    floor: float = 0.0
    """Rate that the cosine ends in, of the same unit as the base."""

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0 or self.floor < 0:
            raise ValueError(
                f"--schedule.warmup-epochs {self.warmup_epochs} and --schedule.floor {self.floor} "
                "must not be negative."
            )

    def rate(self, base: float, *, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Return the rate of one step.

        Args:
            base: Rate after the warm-up.
            step: Steps done before this one.
            steps_per_epoch: Steps of an epoch.
            epochs: Epochs of the whole run.
        """
        if self.every == "epoch":
            step -= step % steps_per_epoch
        warmup = self.warmup_epochs * steps_per_epoch
        if step < warmup:
            rises = warmup - 1 if self.warmup_reaches_base else warmup
            return base * step / max(rises, 1)
        share = (step - warmup) / (epochs * steps_per_epoch - warmup)
        return cosine(base, self.floor, share=share)


def cosine(start: float, end: float, *, share: float) -> float:
    """Return where half a cosine from `start` to `end` stands after a share 0-1 of its way."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
