"""The published pipeline as a baseline: an LMDB of four-date uint8 rows, augmented with cv2 on HWC.

Written from its description (SSL4EO-S12's `ssl4eo_dataset_lmdb.py`, `rs_transforms_uint8.py`,
`pretrain_moco_v2_s2c.py`, `pretrain_mae_s2c.py`, and `cvtorchvision`, which it imports). A row is a
pickle of raw bytes, (4, 13, 264, 264), all bands upsampled to 10 m; a sample unpickles the whole
row, takes two dates (MAE: one), and makes of each a float32 (13, 224, 224). The same draws from
generators of the same seeds give the same arrays as the code described, bit for bit: a test runs
`cvtorchvision` itself beside it. Two things differ: bytes are clipped when rows are written, where
the published conversion lets them wrap, which costs nothing when they are read; and generators
belong to the dataset, where there they are the modules' own.
"""

import math
import pickle
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import lmdb
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

DATES = 4
SIZE = 224

Image = UInt8[np.ndarray, "h w c"]
View = Float32[Tensor, "c h w"]


def write_lmdb(path: Path, locations: Iterable[UInt8[np.ndarray, "4 c h w"]]) -> int:
    """Write rows under their running number, and return how many.

    Args:
        path: The database's folder.
        locations: Every location's four dates, all bands at 10 m.
    """
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 40) as database, database.begin(write=True) as rows:
        for row in locations:
            rows.put(str(count).encode(), pickle.dumps((row.tobytes(), row.shape)))
            count += 1
    return count


class Draws:
    """The two generators that the published transforms draw from.

    Attributes:
        random: Boxes, coins, and the blur.
        numpy: Dates, brightness and contrast.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.numpy = np.random.RandomState(seed % 2**32)


class MoCoTransform:
    """One view of MoCo v2: crop, [brightness, contrast], gray, blur, mirror, tensor."""

    def __call__(self, image: Image, draws: Draws) -> View:
        """Return a view of one date in 0-1."""
        coin = draws.random.random
        image = resized_crop(image, draws)
        if coin() <= 0.8:
            with np.errstate(invalid="ignore"):  # what is out of range wraps around, as there
                image = (image * draws.numpy.uniform(0.6, 1.4)).astype(np.uint8)
                contrast = draws.numpy.uniform(0.6, 1.4)
                mean = np.mean(image, axis=(0, 1))
                image = ((image - mean) * contrast + mean).astype(np.uint8)
        if coin() <= 0.2:
            gray = np.tile(np.mean(image, axis=-1), (image.shape[2], 1, 1))
            image = gray.transpose(1, 2, 0).astype(np.uint8)
        if coin() <= 0.5:
            image = cv2.GaussianBlur(image, (0, 0), draws.random.uniform(0.1, 2.0))
        if coin() < 0.5:
            image = cv2.flip(image, 1)
        return to_tensor(image)


class MaeTransform:
    """The view of MAE: crop, mirror, tensor."""

    def __call__(self, image: Image, draws: Draws) -> View:
        """Return a view of one date in 0-1."""
        image = resized_crop(image, draws)
        if draws.random.random() < 0.5:
            image = cv2.flip(image, 1)
        return to_tensor(image)


Transform = Callable[[Image, Draws], View]


class PublishedDataset(torch.utils.data.Dataset):
    """Views of each row's dates as the published loader makes them (`--season augment`).

    Args:
        path: The database's folder; opened in the process that first reads, as under Slurm there.
        length: Its rows.
        transform: Makes a view of a date; MoCo's if not given.
        views: Views per sample, each of a date of its own drawing; 1 gives a tensor, not a list.
        seed: Of all draws; torch's if not given, which differs from worker to worker.
    """

    def __init__(
        self,
        path: Path,
        *,
        length: int,
        transform: Transform | None = None,
        views: int = 2,
        seed: int | None = None,
    ) -> None:
        self._path, self._length, self._views, self._seed = path, length, views, seed
        self._transform: Transform = transform or MoCoTransform()
        self._database: lmdb.Environment | None = None
        self._draws: Draws | None = None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> list[View] | View:
        if self._database is None or self._draws is None:
            self._database = lmdb.open(
                str(self._path), max_readers=1, readonly=True, lock=False, readahead=False,
                meminit=False,
            )  # fmt: skip
            self._draws = Draws(torch.initial_seed() if self._seed is None else self._seed)
        draws = self._draws
        with self._database.begin(write=False) as rows:
            row = rows.get(str(index).encode())
        if row is None:
            raise IndexError(f"row {index} of {self._length}")
        data, shape = pickle.loads(row)
        dates = np.frombuffer(data, np.uint8).reshape(shape)
        shown = [draws.numpy.choice([0, 1, 2, 3]) for _ in range(self._views)]
        images = [dates[date].transpose(1, 2, 0) for date in shown]
        views = [self._transform(image, draws) for image in images]
        return views if self._views > 1 else views[0]

    def close(self) -> None:
        """Close the database, if it was opened in this process."""
        if self._database is not None:
            self._database.close()
            self._database = None


def resized_crop(image: Image, draws: Draws) -> Image:
    """Return a random resized crop: area U(0.2, 1), aspect U(3/4, 4/3), sides swapped by a coin."""
    height, width = image.shape[:2]
    rng = draws.random
    for _ in range(10):
        area = rng.uniform(0.2, 1.0) * (height * width)
        aspect = rng.uniform(3 / 4, 4 / 3)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rng.random() < 0.5:
            w, h = h, w
        if w <= width and h <= height:
            top, left = rng.randint(0, height - h), rng.randint(0, width - w)
            break
    else:
        w = h = min(height, width)
        top, left = (height - w) // 2, (width - w) // 2
    patch = image[top : top + h, left : left + w].copy()
    return cv2.resize(patch, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)


def to_tensor(image: Image) -> View:
    """Return (C, H, W) in 0-1, as strided as the image is."""
    return torch.from_numpy(image.transpose(2, 0, 1)).float().div(255)
