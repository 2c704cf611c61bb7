"""Members -> views with this package's decoder, one sample at a time, as torch's data sets do."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines.contender import SIZE
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.stream.decode import Decoder, Planes
from ssl4eo_stream.stream.setup import Views
from ssl4eo_stream.strips import Buffer


def no_lap(_: str) -> None:
    """Take no times."""


class Renderer:
    """Makes a sample's views, each a new tensor, for a loader that collates them.

    Randomness is a generator of each process, seeded by torch: other loaders have no plan that
    would key it by location.
    """

    def __init__(self, views: Views | None = None) -> None:
        self._views = views or MoCoViews(size=SIZE)
        self._rng: np.random.Generator | None = None

    def views_of(self, planes_of: Callable[[int], Planes], *, num_dates: int) -> list[Tensor]:
        """Return a sample's views.

        Args:
            planes_of: Date -> its bands at native size; asked once for each date shown.
            num_dates: Dates of the sample.
        """
        if self._rng is None:  # in the worker, whose seed torch has set
            self._rng = np.random.default_rng(torch.initial_seed())
        rng = self._rng
        dates = self._views.dates(num_dates, rng=rng)
        planes = {date: planes_of(date) for date in dict.fromkeys(dates)}
        tensors = []
        for view, date in enumerate(dates):
            shape = self._views.shapes(len(planes[date]))[view]
            out = np.empty(shape, np.uint8)
            self._views.render(planes[date], view=view, rng=rng, out=out, lap=no_lap)
            tensors.append(torch.from_numpy(out))
        return tensors


class MemberRenderer:
    """Makes the views of samples that are kept as members of our shards.

    Args:
        manifest: Of the shards.
        views: What to see; MoCo's two views if not given.
    """

    def __init__(self, manifest: Manifest, *, views: Views | None = None) -> None:
        self._decoder, self._renderer = Decoder(manifest), Renderer(views)

    def __call__(self, members: Sequence[Buffer]) -> list[Tensor]:
        """Return the views of a sample, from its members in order of time."""

        def planes_of(date: int) -> Planes:
            return self._decoder(members[date], name=f"date {date}")

        return self._renderer.views_of(planes_of, num_dates=len(members))
