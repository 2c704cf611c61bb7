"""The published LMDB pipeline in a torch DataLoader, ours and with the package it imports."""

import collections.abc
import importlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import cv2
import lmdb_baseline
import numpy as np
import torch
from lmdb_baseline import Draws, Image, MaeTransform, PublishedDataset, Transform, View

from pipelines.contender import BATCH, SIZE, Batch, Contender, endless
from pipelines.material import Material


def cvtransforms() -> Any:  # noqa: ANN401 - a module without types
    """Import `cvtorchvision` (PyPI: opencv-torchvision-transforms-yuzhiyang), made for Python 3.7.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    functional: Any = importlib.import_module("cvtorchvision.cvtransforms.cvfunctional")
    functional.collections = collections.abc  # it asks for collections.Iterable, gone since 3.10
    return importlib.import_module("cvtorchvision.cvtransforms.cvtransforms")


class PackageTransform:
    """One view of MoCo v2 with the package's crop, coins, mirror and tensor.

    It draws from the modules' own generators, as there; what the published repository adds to the
    package, on uint8 (H, W, C), is written here from its description.
    """

    def __init__(self) -> None:
        package = cvtransforms()
        self._compose = package.Compose([
            package.RandomResizedCrop(SIZE, scale=(0.2, 1.0)),
            package.RandomApply([brightness, contrast], p=0.8),
            package.RandomApply([gray], p=0.2),
            package.RandomApply([blur], p=0.5),
            package.RandomHorizontalFlip(),
            package.ToTensor(),
        ])  # fmt: skip

    def __call__(self, image: Image, draws: Draws) -> View:  # noqa: ARG002 - has its own
        """Return a view of one date in 0-1."""
        return self._compose(image)


def brightness(image: Image) -> Image:
    """Multiply all bands by one number."""
    with np.errstate(invalid="ignore"):
        return (image * np.random.uniform(0.6, 1.4)).astype(np.uint8)  # noqa: NPY002 - as there


def contrast(image: Image) -> Image:
    """Multiply the distance to each band's mean."""
    factor = np.random.uniform(0.6, 1.4)  # noqa: NPY002 - as there
    mean = np.mean(image, axis=(0, 1))
    with np.errstate(invalid="ignore"):
        return ((image - mean) * factor + mean).astype(np.uint8)


def gray(image: Image) -> Image:
    """Replace all bands by their mean."""
    mean = np.tile(np.mean(image, axis=-1), (image.shape[-1], 1, 1))
    return np.transpose(mean, (1, 2, 0)).astype(np.uint8)


def blur(image: Image) -> Image:
    """Blur all bands alike."""
    return cv2.GaussianBlur(image, (0, 0), lmdb_baseline.random.uniform(0.1, 2.0))


class Published:
    """The data set in a DataLoader, as the pre-training scripts make it."""

    def __init__(self, path: Path, *, length: int, transform: Transform | None, views: int) -> None:
        self._path, self._length = path, length
        self._transform, self._views = transform, views

    def start(self, workers: int) -> Generator[Batch, None, None]:
        """Yield batches of rows drawn one by one, so that no epoch ends while it is measured."""
        dataset = PublishedDataset(
            self._path, length=self._length, transform=self._transform, views=self._views
        )
        sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=1 << 20)
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=BATCH, sampler=sampler, num_workers=workers, drop_last=True
        )
        try:
            for batch in endless(loader):
                yield batch if self._views > 1 else [batch]  # pyright: ignore[reportReturnType]
        finally:
            dataset.close()


def contenders(material: Material) -> list[Contender]:
    """Return MoCo's pipeline, the same with the real package where it is, and MAE's."""
    path = material.root / "lmdb"
    if not path.exists():
        lmdb_baseline.write_lmdb(path, material.images())

    def contender(name: str, transform: Transform | None, views: int) -> Contender:
        run = Published(path, length=material.locations, transform=transform, views=views)
        return Contender(name=name, kind="published", views=views, start=run.start)

    found = [contender("LMDB", None, 2), contender("LMDB", MaeTransform(), 1)]
    try:
        found.append(contender("LMDB, cvtorchvision itself", PackageTransform(), 2))
    except ModuleNotFoundError as error:
        print(f"skipped LMDB, cvtorchvision itself: {error}")
    return found
