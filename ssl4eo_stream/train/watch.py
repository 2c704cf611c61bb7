"""What is looked at beside the loss: pictures of views, and how features do on a task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchvision.utils import make_grid

from ssl4eo_stream.bands import Band
from ssl4eo_stream.train.run import Run
from ssl4eo_stream.train.trainer import Trainer

SHOWN = 4
"""Locations in a picture, one a row."""
SIDE_PIXELS = 128
"""Largest side of a view in a picture."""
FALSE_COLOURS = (("B8", "B4", "B3"), ("B4", "B3", "B2"), ("VV", "VH", "VV"))
"""Bands shown as red, green, blue, by preference: near infrared first, plants are red."""


class Probe(Protocol):
    """A task to ask features; the recipe brings it."""

    every_epochs: int
    """Epochs between two times."""

    def opened(
        self, *, bands: Sequence[Band], pixels: int
    ) -> Callable[[nn.Module], dict[str, float]] | None:
        """Return what asks a backbone on every rank, for images of these bands and this side."""
        ...


@runtime_checkable
class Pictured(Protocol):
    """A method that has pictures of its own."""

    def pictures(self, views: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Return images (B, C, H, W), 0-1, by name, without drawing from anyone's generator."""
        ...


class Watch:
    """Looks at a run: at some steps, between two steps.

    Args:
        run: Whose fields say when.
        bands: What the channels are.
    """

    def __init__(self, run: Run[Any], *, bands: Sequence[Band]) -> None:
        self._run, self._channels = run, false_colours(bands)
        probe: Probe | None = run.probe
        self._every_epochs = probe.every_epochs if probe else 0
        self._ask = None
        if probe:
            side = run.views.shapes(len(bands))[0][2]
            self._ask = probe.opened(bands=bands, pixels=side)

    def before(self, trainer: Trainer[Any]) -> None:
        """Ask the network as it was drawn, if the run begins; all ranks call this."""
        if self._ask and trainer.step == 0:
            found = self._ask(trainer.method.backbone)
            if trainer.report:
                trainer.report.note(0, values=found)

    def due(self, trainer: Trainer[Any]) -> bool:
        """Return whether there is anything to look at behind the last step."""
        return self._task_due(trainer) or self._pictures_due(trainer)

    def look(self, trainer: Trainer[Any], views: Sequence[Tensor]) -> dict[str, float]:
        """Draw pictures on rank 0, ask the task on all ranks, and return its numbers.

        Args:
            trainer: The run.
            views: The batch of its last step.
        """
        if trainer.report and self._pictures_due(trainer):
            sheet = contact_sheet([view[:SHOWN] for view in views], channels=self._channels)
            trainer.report.picture("views", sheet, step=trainer.step)
            if isinstance(trainer.method, Pictured):
                own = trainer.method.pictures([view[:SHOWN] for view in views])
                sheet = contact_sheet([views[0][:SHOWN], *own.values()], channels=self._channels)
                name = ", ".join(("seen", *own))
                trainer.report.picture(name, sheet, step=trainer.step)
        if self._ask and self._task_due(trainer):
            return self._ask(trainer.method.backbone)
        return {}

    def _task_due(self, trainer: Trainer[Any]) -> bool:
        if not self._ask:
            return False
        epochs, rest = divmod(trainer.step, len(trainer.loader))
        return trainer.step == trainer.last_step or (rest == 0 and epochs % self._every_epochs == 0)

    def _pictures_due(self, trainer: Trainer[Any]) -> bool:
        every = self._run.picture_steps
        return every > 0 and (trainer.step == 1 or trainer.step % every == 0)


def false_colours(bands: Sequence[Band]) -> list[int]:
    """Return the three channels to show as red, green and blue."""
    names = [band.name for band in bands]
    for wanted in FALSE_COLOURS:
        if set(wanted) <= set(names):
            return [names.index(name) for name in wanted]
    return [min(channel, len(names) - 1) for channel in range(3)]


def contact_sheet(
    views: Sequence[UInt8[Tensor, "b c _ _"] | Float[Tensor, "b c _ _"]], *, channels: Sequence[int]
) -> Float[Tensor, "3 h w"]:
    """Return one picture, 0-1, a row per sample and a column per view.

    Contrast is stretched between the 2nd and 98th percentile of each channel of the first view.

    Args:
        views: Bytes 0-255, or numbers 0-1, of any sizes.
        channels: Three channels to show.
    """
    numbers = [view[:, channels].float().cpu() for view in views]
    numbers = [n / 255 if view.dtype == torch.uint8 else n
               for n, view in zip(numbers, views, strict=True)]  # fmt: skip
    ends = torch.quantile(numbers[0].transpose(0, 1).flatten(1), torch.tensor([0.02, 0.98]), dim=1)
    low, high = ends[:, None, :, None, None]  # (1, 3, 1, 1) each
    side = min(SIDE_PIXELS, max(view.shape[-1] for view in views))
    columns = []
    for view in numbers:
        shown = ((view - low) / (high - low).clamp(min=1 / 255)).clamp(0, 1)
        if shown.shape[-1] > side:
            shown = F.interpolate(shown, (side, side), mode="area")
        gap = side - shown.shape[-1]
        columns.append(F.pad(shown, (0, gap, 0, gap), value=1.0))
    tiles = torch.stack(columns, dim=1).flatten(0, 1)
    return make_grid(tiles, nrow=len(columns), padding=2, pad_value=1.0)
