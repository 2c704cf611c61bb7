"""What moves the parameters: SGD and AdamW as the published runs use them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssl4eo_stream.train.schedule import cosine

Decayed = Literal["all", "matrices"]
BatchRule = Literal["none", "linear", "sqrt"]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The defaults are MoCo-v2's for a global batch of 256."""

    name: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum for ResNets, AdamW for vision transformers."""
    lr: float = 0.03
    """Base learning rate, for the global batch that `batch_rule` says."""
    batch_rule: BatchRule = "none"
    """How the rate follows the global batch: not at all, or times batch / 256 (linear), or times
    its root (sqrt; usual with AdamW)."""
    momentum: float = 0.9
    """Share of the last update that goes into the next (SGD)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Shares of the old averages of the gradient and of its square (AdamW)."""
    weight_decay: float = 1e-4
    """Decay of the parameters that decay."""
    weight_decay_end: float | None = None
    """Where half a cosine over all steps takes the decay to; it stays if not given."""
    decayed: Decayed = "all"
    """Which parameters decay: all, biases and norms too (MoCo), or those of two and more
    dimensions that are no biases (DINO, MAE, data2vec)."""
    undecayed: tuple[str, ...] = ()
    """Last names of further parameters that do not decay."""
    clip: float | None = None
    """Largest norm of the gradients; longer ones are cut to it."""
    clip_each: bool = False
    """Whether that holds for every parameter by itself (DINO), or for all together (data2vec)."""

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay", "weight_decay_end", "clip"):
            value = getattr(self, name)
            if value is not None and value < 0:
                flag = name.replace("_", "-")
                raise ValueError(f"--optimizer.{flag} is {value}; it must not be negative.")
        for name, kind in (("decayed", Decayed), ("batch_rule", BatchRule)):
            if getattr(self, name) not in get_args(kind):
                flag, choices = name.replace("_", "-"), ", ".join(get_args(kind))
                raise ValueError(
                    f"--optimizer.{flag} is {getattr(self, name)!r}; it must be one of {choices}."
                )

    def base_rate(self, batch_size: int) -> float:
        """Return the base learning rate for a global batch, by `batch_rule`."""
        power = {"none": 0.0, "linear": 1.0, "sqrt": 0.5}[self.batch_rule]
        return self.lr * (batch_size / 256) ** power

    def over(self, module: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's trained parameters, one fused kernel where on CUDA."""
        decayed, others = [], []
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                (decayed if self._decays(name, parameter) else others).append(parameter)
        groups = [{"params": decayed, "decays": True}]
        if others:
            groups.append({"params": others, "decays": False, "weight_decay": 0.0})
        fused = next(module.parameters()).is_cuda
        if self.name == "sgd":
            return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum,
                                   weight_decay=self.weight_decay, fused=fused)  # fmt: skip
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas,
                                 weight_decay=self.weight_decay, fused=fused)  # fmt: skip

    def _decays(self, name: str, parameter: Tensor) -> bool:
        last = name.rpartition(".")[2]
        matrix = parameter.ndim > 1 and last != "bias"
        return (self.decayed == "all" or matrix) and last not in self.undecayed

    def set(self, optimizer: torch.optim.Optimizer, *, rate: float, share: float) -> None:
        """Set what moves with time.

        Args:
            optimizer: What `over` returned.
            rate: Learning rate of the next step.
            share: Share of all steps done before it, 0-1.
        """
        decay = self.weight_decay
        if self.weight_decay_end is not None:
            decay = cosine(decay, self.weight_decay_end, share=share)
        for group in optimizer.param_groups:
            group["lr"] = rate
            if group["decays"]:
                group["weight_decay"] = decay

    def clip_gradients(self, parameters: Sequence[nn.Parameter]) -> Float[Tensor, ""] | None:
        """Cut gradients that are too long, without waiting for the device.

        Returns:
            The norm of all gradients together before that; None if nothing is ever cut.
        """
        gradients = [each.grad for each in parameters if each.grad is not None]
        if self.clip is None or not gradients:
            return None
        norms = torch.stack(torch._foreach_norm(gradients))  # pyright: ignore[reportPrivateImportUsage]
        total = torch.linalg.vector_norm(norms)
        factors = self.clip / ((norms if self.clip_each else total) + 1e-6)
        factors = factors.clamp(max=1).expand(len(gradients))
        torch._foreach_mul_(gradients, list(factors.unbind()))  # pyright: ignore[reportPrivateImportUsage]
        return total
