"""Finds the batch that made a loss infinite, without asking the device at every step."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


class FiniteGuard:
    """Remembers the first step since the last record whose loss was not finite, and its batch.

    Args:
        device: Where losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self._bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._keys: dict[int, list[str]] = {}

    def watch(self, loss: Float[Tensor, ""], *, step: int, keys: Sequence[str]) -> None:
        """Look at a loss, on its device.

        Args:
            loss: Of this rank's part of the batch.
            step: The step's number.
            keys: The batch's location ids.
        """
        self._keys[step] = list(keys)
        first = (self._bad < 0) & ~loss.detach().isfinite()
        self._bad.masked_fill_(first, step)

    def clear(self) -> None:
        """Forget everything: all was well."""
        self._keys.clear()
        self._bad.fill_(-1)

    def found(self) -> str:
        """Return which step it was and what its batch showed; waits for the device."""
        step = int(self._bad)
        if step < 0:
            return "on another rank"
        return f"first at step {step}, whose batch shows {' '.join(self._keys[step])}"
