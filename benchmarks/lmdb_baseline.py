"""The published pipeline as a baseline: an LMDB of four-date uint8 rows, augmented with cv2 on HWC.

Written from its description (SSL4EO-S12's `ssl4eo_dataset_lmdb.py`, `rs_transforms_uint8.py` and
`pretrain_moco_v2_s2c.py`). Every row is a pickle of raw bytes, (4, 13, 264, 264), all bands
upsampled to 10 m; a sample unpickles the whole row, takes two dates, and makes of each a float32
(13, 224, 224). To its favour: bytes are clipped when the rows are written, and the arithmetic of
brightness and contrast is float32 rather than float64.
"""

import pickle
from collections.abc import Iterable
from pathlib import Path

import cv2
import lmdb
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

DATES = 4
PIXELS = 264
SIZE = 224

Image = UInt8[np.ndarray, "h w c"]


def upsampled(planes: Iterable[UInt8[np.ndarray, "_ _"]]) -> UInt8[np.ndarray, "c 264 264"]:
    """Return one date's bands at 10 m."""
    return np.stack([
        cv2.resize(plane, (PIXELS, PIXELS), interpolation=cv2.INTER_LINEAR_EXACT)
        for plane in planes
    ])  # fmt: skip


def write_lmdb(path: Path, locations: Iterable[list[list[UInt8[np.ndarray, "_ _"]]]]) -> int:
    """Write rows under their running number, and return how many.

    Args:
        path: The database's folder.
        locations: Per location its dates, per date its bands; fewer dates than four are repeated,
            so that every row has the size of the published ones.
    """
    count = 0
    with lmdb.open(str(path), map_size=1 << 36) as database, database.begin(write=True) as rows:
        for dates in locations:
            images = [upsampled(planes) for planes in dates]
            row = np.stack([images[date % len(images)] for date in range(DATES)])
            rows.put(str(count).encode(), pickle.dumps((row.tobytes(), row.shape)))
            count += 1
    return count


class PublishedDataset(torch.utils.data.Dataset):
    """Two views per location as the published loader makes them.

    Args:
        path: The database's folder.
        length: Its rows.
        seed: Of all draws.
        number: Type of the arithmetic; the published code's is float64.
    """

    def __init__(
        self,
        path: Path,
        *,
        length: int,
        seed: int,
        number: type[np.float64 | np.float32] = np.float64,
    ) -> None:
        self._database = lmdb.open(
            str(path), max_readers=1, readonly=True, lock=False, readahead=False, meminit=False
        )
        self._length, self._number = length, number
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Float32[Tensor, "c h w"], Float32[Tensor, "c h w"]]:
        with self._database.begin(write=False) as rows:
            row = rows.get(str(index).encode())
        if row is None:
            raise IndexError(f"row {index} of {self._length}")
        data, shape = pickle.loads(row)
        dates = np.frombuffer(data, np.uint8).reshape(shape)
        first, second = self._rng.integers(DATES, size=2)
        return self._view(dates[first]), self._view(dates[second])

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _view(self, bands: UInt8[np.ndarray, "c h w"]) -> Float32[Tensor, "c h w"]:
        rng = self._rng
        image = self._crop(bands.transpose(1, 2, 0))
        if rng.random() < 0.8:
            number = self._number
            with np.errstate(invalid="ignore"):  # what is out of range wraps around, as there
                image = (image * number(rng.uniform(0.6, 1.4))).astype(np.uint8)
                mean = image.mean(axis=(0, 1), dtype=number)
                image = ((image - mean) * number(rng.uniform(0.6, 1.4)) + mean).astype(np.uint8)
        if rng.random() < 0.2:
            mean = image.mean(axis=2, dtype=self._number)
            image = np.tile(mean, (image.shape[2], 1, 1)).transpose(1, 2, 0).astype(np.uint8)
        if rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.1, 2.0))
        if rng.random() < 0.5:
            image = cv2.flip(image, 1)
        return torch.from_numpy(image.transpose(2, 0, 1)).float().div(255)

    def _crop(self, image: Image) -> Image:
        height, width = image.shape[:2]
        for _ in range(10):
            area = height * width * self._rng.uniform(0.2, 1.0)
            aspect = self._rng.uniform(3 / 4, 4 / 3)
            h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
            if h <= height and w <= width:
                top, left = self._rng.integers(height - h + 1), self._rng.integers(width - w + 1)
                image = image[top : top + h, left : left + w]
                break
        return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
