"""One step of training, what it changes, and how that gets into files and back."""

import inspect
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl4eo_stream import distributed
from ssl4eo_stream.machine import versions
from ssl4eo_stream.train import checkpoint
from ssl4eo_stream.train.feed import Loader
from ssl4eo_stream.train.guard import FiniteGuard
from ssl4eo_stream.train.report import Report
from ssl4eo_stream.train.run import Run

logger = logging.getLogger(__name__)

M = TypeVar("M")


@runtime_checkable
class Method(Protocol):
    """What the loop trains: an `nn.Module` with these members; nobody inherits from this."""

    metrics: dict[str, Tensor]
    """Numbers of the last forward worth recording, left on their device."""

    @property
    def compiled(self) -> Sequence[str]:
        """Dotted names of its functions of tensors alone that are worth compiling."""
        ...

    @property
    def backbone(self) -> nn.Module:
        """The network that is kept after training."""
        ...

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Return the loss of a batch: per view a uint8 tensor (B, C, H, W)."""
        ...

    def before_step(self, *, epoch: float, epochs: int) -> None:
        """Get ready for a step; `epoch` counts those done, with their fraction, of `epochs`."""
        ...

    def before_update(self) -> None:
        """Change gradients, once they are complete and before they are cut and used."""
        ...

    def after_step(self) -> None:
        """Do what follows the optimizer's step."""
        ...


class Trainer(Generic[M]):
    """Everything that a step changes, and how it gets into files and back.

    Args:
        run: What to do; where it names a checkpoint, the trainer starts from its state.
        build: See `train`.
        loader: Where batches come from; moved to where the checkpoint left it.
        device: Where to train.
    """

    def __init__(
        self,
        run: Run[M],
        build: Callable[[Run[M], int], Method],
        *,
        loader: Loader,
        device: torch.device,
    ) -> None:
        self.run, self.loader, self.device = run, loader, device
        source = inspect.getsourcefile(build)
        self.recipe = Path(source).read_text(encoding="utf-8") if source else ""
        torch.manual_seed(run.seed)
        self.method = build(run, loader.channels)
        assert isinstance(self.method, nn.Module)
        self.module: nn.Module = self.method.train()
        self.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if run.compile == "on" or (run.compile == "auto" and device.type == "cuda"):
            compile_functions(self.module, names=self.method.compiled)
        self.optimizer = run.optimizer.over(self.module)
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.total_steps = run.epochs * len(loader)
        self.last_step = min(self.total_steps, run.max_steps or self.total_steps)
        self.step = checkpoint.restore(run, module=self.module, optimizer=self.optimizer,
                                       loader=loader, device=device)  # fmt: skip
        self.model = self.module
        if distributed.world_size() > 1:
            self.model = DistributedDataParallel(
                self.module,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,  # queues and centres agree; of statistics rank 0's count
            )
        self.bf16 = run.precision == "bf16" or (run.precision == "auto" and device.type == "cuda")
        self.report: Report | None = None
        self._loss_sum = torch.zeros((), device=device)
        self._guard = FiniteGuard(device)
        self._recorded = self.step, time.monotonic()
        self._saved_time = time.monotonic()

    def recording(self) -> AbstractContextManager[Any]:
        """Open the files of numbers on rank 0, until the context ends."""
        if distributed.rank() == 0:
            self.report = Report(self.run.output, step=self.step, total_steps=self.total_steps,
                                 epochs=self.run.epochs)  # fmt: skip
        return self.report or nullcontext()

    def advance(self, views: Sequence[Tensor], *, keys: Sequence[str] = ()) -> None:
        """Do one step on this rank's part of a batch, `keys` being its location ids."""
        share = self.step / self.total_steps
        self.run.optimizer.set(self.optimizer, rate=self.rate(), share=share)
        self.method.before_step(epoch=self.step / len(self.loader), epochs=self.run.epochs)
        self.optimizer.zero_grad()
        parts = self.run.accumulate
        for part, own in enumerate(zip(*(view.chunk(parts) for view in views), strict=True)):
            with self._gradients_meet(when=part == parts - 1):
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                    loss = self.model(own)
                (loss / parts).backward()
            self._loss_sum += loss.detach() / parts
            self._guard.watch(loss, step=self.step + 1, keys=keys)
        self.method.before_update()
        norm = self.run.optimizer.clip_gradients(self.trained)
        if norm is not None:
            self.method.metrics["gradient_norm"] = norm
        self.optimizer.step()
        self.method.after_step()
        self.step += 1

    def _gradients_meet(self, *, when: bool) -> AbstractContextManager[Any]:
        """Let ranks add up their gradients only with the last part of a batch."""
        if when or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        base = self.run.optimizer.base_rate(self.run.batch_size)
        return self.run.schedule.rate(
            base, step=self.step, steps_per_epoch=len(self.loader), epochs=self.run.epochs
        )

    def record(self, *, also: Callable[[], Mapping[str, float]] | None = None) -> None:
        """Write the numbers since the last call; waits for the GPU.

        Args:
            also: Finds further numbers, in its own time, which is nobody's throughput.

        Raises:
            FloatingPointError: The loss is not finite on some rank.
        """
        steps, seconds = self.step - self._recorded[0], time.monotonic() - self._recorded[1]
        stats = self.loader.stats()
        wait = torch.tensor(stats["wait_share"], device=self.device)
        names = ["loss", "wait_share", *self.method.metrics]
        numbers = [self._loss_sum / steps, wait, *self.method.metrics.values()]
        means = distributed.mean(torch.stack([number.float() for number in numbers])).tolist()
        values = dict(zip(names, means, strict=True))
        if not math.isfinite(values["loss"]):
            raise self._not_finite(
                f"The loss, mean over {steps} steps, is {values['loss']} ({self._guard.found()})"
            )
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        if self.device.type == "cuda":
            values["memory_gigabytes"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        values["samples_per_second"] = steps * self.run.batch_size / seconds
        if also:
            values |= also()
            self.loader.stats()
        if self.report:
            epoch = (self.step - 1) // len(self.loader)
            self.report.write(self.step, epoch=epoch, seconds_per_step=seconds / steps,
                              values=values, stats=stats)  # fmt: skip
        self._loss_sum.zero_()
        self._guard.clear()
        self._recorded = self.step, time.monotonic()

    def checkpoint_due(self) -> bool:
        """Return whether this step is to be saved, by the clock, the epoch, or as the last one."""
        minutes = (time.monotonic() - self._saved_time) / 60
        return (
            minutes >= self.run.checkpoint_minutes
            or self._epoch_to_keep() is not None
            or self.step == self.last_step
        )

    def _epoch_to_keep(self) -> int | None:
        """Return the number of epochs done where the checkpoint behind the last is to stay."""
        done, rest = divmod(self.step, len(self.loader))
        return done if rest == 0 and done % self.run.checkpoint_keep_epochs == 0 else None

    def save(self) -> None:
        """Save the state behind the last step; all ranks call this, rank 0 writes.

        Raises:
            FloatingPointError: A weight is not finite; nothing was written.
        """
        if not torch.nn.utils.get_total_norm(self.module.parameters()).isfinite():
            raise self._not_finite("A weight is not finite")
        rng = distributed.gather(checkpoint.rng_state(self.device))
        if distributed.rank() == 0:
            state = checkpoint.Checkpoint(
                step=self.step,
                model=self.module.state_dict(),
                optimizer=self.optimizer.state_dict(),
                loader=self.loader.state_dict(),
                rng=rng,
                run=self.run.to_dict(),
                recipe=self.recipe,
                versions=versions(),
            )
            path = checkpoint.save(state, folder=self.run.output, keep=self.run.checkpoint_keep,
                                   epoch_done=self._epoch_to_keep())  # fmt: skip
            logger.info("saved %s", path)
        self._saved_time = time.monotonic()

    def _not_finite(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} at step {self.step}: the run has diverged. The checkpoints in "
            f"{self.run.output} are from before; lower --optimizer.lr, or try --precision fp32, "
            "and run the same command to go on from the newest."
        )


def compile_functions(module: nn.Module, *, names: Sequence[str]) -> None:
    """Let torch.compile take over some of a module's functions, once for every shape they meet.

    Args:
        module: Changed in place; parameters, buffers and their names stay.
        names: Dotted, from the module: `encoder.forward`.
    """
    for name in names:
        path, _, function = name.rpartition(".")
        owner = module.get_submodule(path)
        setattr(owner, function, torch.compile(getattr(owner, function), dynamic=False))
