"""The baseline loads what was written, as the published pipeline augments it."""

import pickle

import cv2
import lmdb
import numpy as np
import pytest
import torch
from lmdb_baseline import DATES, PIXELS, SIZE, PublishedDataset, upsampled, write_lmdb

from ssl4eo_stream.bands import S2C

BANDS = len(S2C.bands)


def planes_with(value):
    """One date, every band flat: band c has `value` + c."""
    return [np.full((band.pixels,) * 2, value + c, np.uint8) for c, band in enumerate(S2C.bands)]


@pytest.fixture
def dataset(tmp_path):
    """Three locations, flat; date d of location i has its bands from 40 + 10 d + 5 i on."""
    locations = [[planes_with(40 + 10 * d + 5 * i) for d in range(DATES)] for i in range(3)]
    assert write_lmdb(tmp_path / "lmdb", locations) == 3
    dataset = PublishedDataset(tmp_path / "lmdb", length=3, seed=0)
    yield dataset
    dataset.close()


def rows_of(path):
    with lmdb.open(str(path), readonly=True, lock=False) as database, database.begin() as rows:
        return {
            key.decode(): np.frombuffer(data, np.uint8).reshape(shape)
            for key, (data, shape) in (
                (bytes(key), pickle.loads(value)) for key, value in rows.cursor()
            )
        }


@pytest.mark.parametrize("num_dates", [1, 2, 4])
def test_rows_hold_four_upsampled_dates(tmp_path, num_dates):
    rng = np.random.default_rng(0)
    dates = [
        [rng.integers(0, 256, (band.pixels,) * 2, np.uint8) for band in S2C.bands]
        for _ in range(num_dates)
    ]
    write_lmdb(tmp_path / "lmdb", [dates, dates])
    rows = rows_of(tmp_path / "lmdb")
    assert sorted(rows) == ["0", "1"]
    assert rows["1"].shape == (DATES, BANDS, PIXELS, PIXELS)
    for date in range(DATES):
        planes = dates[date % num_dates]
        assert np.array_equal(rows["1"][date], upsampled(planes))
        for channel, plane in enumerate(planes):
            if len(plane) == PIXELS:  # 10 m bands are kept as they are
                assert np.array_equal(rows["1"][date, channel], plane)


@pytest.mark.parametrize("pixels", [132, 44])
def test_coarse_bands_are_interpolated_between_pixel_centres(pixels):
    """A ramp over the ground stays that ramp, flat only in the half pixels at its ends."""
    factor = PIXELS // pixels
    coarse = np.broadcast_to((np.arange(pixels) * 250 // pixels).astype(np.uint8), (pixels,) * 2)
    (fine,) = upsampled([np.ascontiguousarray(coarse)])
    position = (np.arange(PIXELS) + 0.5) / factor - 0.5
    expected = np.interp(position, np.arange(pixels), coarse[0])
    assert np.abs(fine - expected[None]).max() <= 0.5 + 1e-6


def test_views_have_the_networks_shape_type_and_range(dataset):
    assert len(dataset) == 3
    for index in range(3):
        for view in dataset[index]:
            assert view.shape == (BANDS, SIZE, SIZE)
            assert view.dtype == torch.float32
            assert 0 <= view.min() <= view.max() <= 1


def test_augmentations_come_as_often_as_published(dataset):
    """On flat bands, each an own value, every step can be told from what it leaves."""
    bytes_ = torch.stack([view[:, 0, 0] * 255 for _ in range(60) for view in dataset[1]])
    assert (bytes_ - bytes_.round()).abs().max() < 1e-4
    plain = (bytes_.diff(dim=1) == 1).all(dim=1)
    gray = (bytes_ == bytes_[:, :1]).all(dim=1)
    untouched = plain & torch.isin(bytes_[:, 0], torch.tensor([45.0, 55.0, 65.0, 75.0]))
    assert untouched.float().mean() == pytest.approx(0.2 * 0.8, abs=0.08)
    assert gray.float().mean() == pytest.approx(0.2, abs=0.09)
    first = bytes_[untouched, 0]
    assert len(torch.unique(first)) == DATES  # any date, drawn anew
    scale = bytes_[~gray].mean(dim=1) / 66  # four dates of mean 51-81 × U(0.6, 1.4)
    assert 0.4 < scale.min() < 0.7
    assert 1.3 < scale.max() < 1.75


def test_views_are_crops_of_the_row(tmp_path):
    """A ramp from left to right: its steps tell the box's width and the mirror."""
    ramp = np.broadcast_to(np.linspace(40, 140, PIXELS).astype(np.uint8), (PIXELS, PIXELS))
    planes = [cv2.resize(ramp, (band.pixels,) * 2, interpolation=cv2.INTER_AREA)
              for band in S2C.bands]  # fmt: skip
    write_lmdb(tmp_path / "lmdb", [[planes]])
    dataset = PublishedDataset(tmp_path / "lmdb", length=1, seed=1)
    slopes = []
    for _ in range(30):
        for view in dataset[0]:
            row = view[0, SIZE // 2]
            # Rows differ by what cv2 rounds, times 1.4 twice, and truncation.
            assert torch.allclose(view[0], row.expand_as(view[0]), atol=4 / 255)
            slopes.append(float(row[-1] - row[0]) * 255)
    dataset.close()
    mirrored = np.mean(np.array(slopes) < 0)
    assert mirrored == pytest.approx(0.5, abs=0.2)
    assert np.abs(slopes).max() > 2 * np.abs(slopes).min()  # boxes of many sizes
