"""The baseline loads what was written, as the published pipeline augments it."""

import random

import numpy as np
import pytest
import torch
from lmdb_baseline import (
    DATES,
    SIZE,
    Draws,
    MaeTransform,
    MoCoTransform,
    PublishedDataset,
    resized_crop,
    write_lmdb,
)

BANDS = 13
PIXELS = 264


def flat(location):
    """Four flat dates; date d of location i has its bands from 40 + 10 d + 5 i on."""
    first = 40 + 10 * np.arange(DATES)[:, None] + 5 * location + np.arange(BANDS)
    return np.broadcast_to(first.astype(np.uint8)[..., None, None], (DATES, BANDS, PIXELS, PIXELS))


@pytest.fixture
def dataset(tmp_path):
    assert write_lmdb(tmp_path / "lmdb", (flat(i) for i in range(3))) == 3
    dataset = PublishedDataset(tmp_path / "lmdb", length=3, seed=0)
    yield dataset
    dataset.close()


@pytest.fixture
def image():
    """Bright noise over a ramp, so that every step's rounding and wrapping shows."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, PIXELS)[:, None, None]
    return (ramp + rng.integers(0, 56, (PIXELS, PIXELS, BANDS))).astype(np.uint8)


def test_the_same_draws_give_the_arrays_of_the_published_package(image):
    """`cvtorchvision` itself, with the modules' generators where we have our own."""
    pytest.importorskip("cvtorchvision.cvtransforms")
    from pipelines.published import PackageTransform

    theirs, ours = PackageTransform(), MoCoTransform()
    for seed in range(60):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - as there
        expected, draws = theirs(image, Draws(0)), Draws(seed)
        view = ours(image, draws)
        assert torch.equal(view, expected)
        assert view.stride() == expected.stride()
        assert draws.random.random() == random.random()
        assert draws.numpy.uniform() == np.random.uniform()  # noqa: NPY002


def test_the_same_draws_give_the_formulas_written_slowly(image):
    """Without the package: every step of a view, from the draws in their order."""
    kinds = set()
    for seed in range(40):
        rng, numbers = random.Random(seed), np.random.RandomState(seed)
        expected = resized_crop(image, Draws(seed)).astype(np.float64)
        skip_the_crops_draws(rng)
        jitter = rng.random() <= 0.8
        if jitter:
            expected = np.trunc(expected * numbers.uniform(0.6, 1.4)) % 256
            factor, mean = numbers.uniform(0.6, 1.4), expected.mean(axis=(0, 1))
            expected = np.trunc((expected - mean) * factor + mean) % 256
        gray = rng.random() <= 0.2
        if gray:
            expected[:] = np.trunc(expected.mean(axis=2, keepdims=True))
        blurred = rng.random() <= 0.5
        if blurred:
            continue  # cv2's own arithmetic, which the package's test covers
        if rng.random() < 0.5:
            expected = expected[:, ::-1]
        view = MoCoTransform()(image, Draws(seed)).numpy().transpose(1, 2, 0) * 255
        # A value that lies on a whole number may be truncated to either side of it.
        assert np.mean(np.abs(view - expected) > 0.01) < 1e-3
        kinds.add((jitter, gray))
    assert kinds >= {(True, False), (False, False), (True, True)}


def skip_the_crops_draws(rng):
    while True:
        area, aspect = rng.uniform(0.2, 1.0) * PIXELS**2, rng.uniform(3 / 4, 4 / 3)
        width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if rng.random() < 0.5:
            width, height = height, width
        if max(width, height) <= PIXELS:
            rng.randint(0, PIXELS - height)
            rng.randint(0, PIXELS - width)
            return


def test_mae_sees_one_date_cropped_and_mirrored(tmp_path, image):
    write_lmdb(tmp_path / "lmdb", [np.broadcast_to(image.transpose(2, 0, 1), (4, 13, 264, 264))])
    dataset = PublishedDataset(
        tmp_path / "lmdb", length=1, transform=MaeTransform(), views=1, seed=5
    )
    mirrored = 0
    draws = Draws(5)
    for _ in range(20):
        draws.numpy.choice([0, 1, 2, 3])
        crop = resized_crop(image, draws)
        mirror = draws.random.random() < 0.5
        expected = crop[:, ::-1] if mirror else crop
        view = dataset[0]
        assert np.allclose(view.numpy(), expected.transpose(2, 0, 1) / 255, atol=1e-6)
        mirrored += mirror
    dataset.close()
    assert 0 < mirrored < 20


def test_a_crop_is_resampled_ground(image):
    """A ramp from top to bottom: its slope tells the box's height."""
    heights = []
    for seed in range(200):
        ramp = np.broadcast_to(np.arange(PIXELS)[:, None, None] / 2, image.shape).astype(np.uint8)
        crop = resized_crop(ramp, Draws(seed)).astype(float)
        assert crop.shape == (SIZE, SIZE, BANDS)
        heights.append((crop[-1].mean() - crop[0].mean()) * 2 * SIZE / (SIZE - 1))
    share = np.array(heights) / PIXELS
    assert 0.36 < share.min() < 0.5  # √(0.2 × 3/4) = 0.39
    assert 0.93 < share.max() <= 1.01


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
