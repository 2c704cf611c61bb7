"""Stochastic gradient descent, as MoCo-v2 and every linear probe of the paper use it."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """SGD with momentum; the defaults are MoCo-v2's for a global batch of 256."""

    lr: float = 0.03
    """Base learning rate for the global batch as it is: nothing scales it by the batch size."""
    momentum: float = 0.9
    """Share of the last update that goes into the next."""
    weight_decay: float = 1e-4
    """Decay of every trained parameter, biases and batch norms too, as the official code has it."""

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            if (value := getattr(self, name)) < 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--optimizer.{flag} is {value}; it must not be negative.")

    def over(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's trained parameters, one fused kernel where on CUDA."""
        parameters = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.SGD(
            parameters,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=parameters[0].device.type == "cuda",
        )
