"""torchgeo's SSL4EOS12 on the published tree of GeoTIFFs."""

import warnings
from collections.abc import Generator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipelines.contender import BATCH, SIZE, Batch, Contender, endless
from pipelines.material import Material
from pipelines.rendering import Renderer
from ssl4eo_stream.bands import S2C

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports warn of others' deprecations
    from torchgeo.datasets import SSL4EOS12  # pyright: ignore[reportMissingImports]
    from torchgeo.trainers.moco import moco_augmentations  # pyright: ignore[reportMissingImports]

BANDS = len(S2C.bands)
FULL_SCALE = 10_000
"""Digital number of reflectance 1: what its data module divides by."""

Views = Literal["ours", "kornia", "none"]


class OurViews:
    """Makes our views of a sample of two dates, as the data set's `transforms`."""

    def __init__(self) -> None:
        self._renderer = Renderer()

    def __call__(self, sample: dict[str, Tensor]) -> dict[str, Any]:
        """Return a sample of views, from float32 (26, 264, 264) digital numbers."""
        image = (sample["image"].numpy() * (255 / FULL_SCALE)).round().clip(0, 255)
        dates = image.astype(np.uint8).reshape(2, BANDS, *image.shape[1:])
        views = self._renderer.views_of(lambda date: list(dates[date]), num_dates=2)
        return {"views": views}


class Tree:
    """The data set in a DataLoader, two dates per location."""

    def __init__(self, material: Material, *, views: Views) -> None:
        self._root, self._locations, self._views = material.tree, material.locations, views
        augmentation, _ = moco_augmentations(2, SIZE, torch.ones(BANDS))
        self._augmentation = augmentation

    def start(self, workers: int) -> Generator[Batch, None, None]:
        """Yield batches; kornia's augmentations act on whole batches in this process, as there."""
        dataset = SSL4EOS12(
            str(self._root), split="s2c", seasons=2,
            transforms=OurViews() if self._views == "ours" else None,
        )  # fmt: skip
        present = torch.utils.data.Subset(dataset, range(self._locations))
        sampler = torch.utils.data.RandomSampler(present, replacement=True, num_samples=1 << 20)
        loader = torch.utils.data.DataLoader(
            present, batch_size=BATCH, sampler=sampler, num_workers=workers
        )
        for batch in endless(loader):
            yield self._finished(batch)

    def _finished(self, batch: Any) -> Batch:  # noqa: ANN401 - what collate makes of its dict
        if self._views == "ours":
            return batch["views"]
        dates = batch["image"].split(BANDS, dim=1)
        if self._views == "none":
            return dates
        with torch.no_grad():
            return [self._augmentation(date / FULL_SCALE) for date in dates]


def contenders(material: Material) -> list[Contender]:
    """Return the data set with our views, its trainer's, and none."""
    return [
        Contender(name="torchgeo, GeoTIFFs", kind="our decoder and views", views=2,
                  start=Tree(material, views="ours").start),
        Contender(name="torchgeo, GeoTIFFs; its MoCo trainer's kornia", kind="as documented",
                  views=2, start=Tree(material, views="kornia").start),
        Contender(name="torchgeo, GeoTIFFs; bare 264 × 264 dates, no views", kind="as documented",
                  views=2, start=Tree(material, views="none").start),
    ]  # fmt: skip
