"""Nearest neighbours against scikit-learn, and what asks them while a network is trained."""

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks import run_ranks
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from ssl4eo_stream.bands import S2C
from ssl4eo_stream.evaluate.features import features
from ssl4eo_stream.evaluate.knn import EuroSATNeighbours, votes


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**20), asking=st.integers(1, 9), answering=st.integers(3, 30),
    neighbours=st.integers(1, 40), temperature=st.sampled_from([0.07, 0.5, 2.0]),
)  # fmt: skip
def test_votes_are_scikit_learns(seed, asking, answering, neighbours, temperature):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(asking, 5)), rng.normal(size=(answering, 5))
    classes = np.concatenate([[0, 1, 2], rng.integers(0, 3, answering - 3)])
    oracle = KNeighborsClassifier(
        min(neighbours, answering), metric="cosine", algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    ).fit(y, classes)  # fmt: skip
    ours = votes(torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(classes),
                 neighbours=neighbours, temperature=temperature)  # fmt: skip
    np.testing.assert_allclose(ours.numpy(), oracle.predict_proba(x), atol=1e-9)


class Means(nn.Module):
    """A backbone whose features are the bands' means, different while it is trained."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))
        self.drop, self.norm = nn.Dropout(0.9), nn.BatchNorm2d(13)

    def forward(self, images):
        return self.factor * self.norm(self.drop(images)).mean(dim=(2, 3))


def images(count):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 13, 8, 8), dtype=torch.uint8, generator=generator)


def of_rank(count):
    return features(Means().double(), images(count), pixels=8).numpy()


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_work_and_hold_all(count, ranks):
    expected = of_rank(count)
    assert expected.shape == (count, 13)
    for found in run_ranks(of_rank, ranks, count):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_backbone_is_left_as_it_was():
    network = Means().train()
    network.drop.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    found = features(network, images(5), pixels=8, batch_size=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [network.training, network.drop.training, network.norm.training] == [True, False, True]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    plain = images(5).float().mean(dim=(2, 3)) / 255 / (1 + 1e-5) ** 0.5  # untouched statistics
    torch.testing.assert_close(found, plain)


def test_images_are_brought_to_the_backbones_size():
    seen = []

    class Looks(Means):
        def forward(self, images):
            seen.append(tuple(images.shape))
            return super().forward(images)

    whole = features(Means(), images(3), pixels=8)
    larger = features(Looks(), images(3), pixels=16)
    assert seen == [(3, 13, 16, 16)]
    torch.testing.assert_close(larger, whole, atol=0.02, rtol=0)


class Tokens(Means):
    """Returns a class token and one more, as transformers without pooling do."""

    def forward(self, images):
        features = super().forward(images)
        return torch.stack([features, 0 * features], dim=1)


def test_of_tokens_the_first_counts():
    torch.testing.assert_close(features(Tokens(), images(3), pixels=8),
                               features(Means(), images(3), pixels=8))  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    """Two classes that differ in one band, eight images each."""
    rng = np.random.default_rng(0)
    for kind, level in (("Dark", 0), ("Light", 4000)):
        (tmp_path / kind).mkdir()
        for number in range(1, 9):
            values = rng.integers(2000, 2100, (64, 64, 13), dtype=np.uint16)
            values[..., 7] += level
            tifffile.imwrite(tmp_path / kind / f"{kind}_{number}.tif", values,
                             planarconfig="contig")  # fmt: skip
    return tmp_path


def test_what_asks_knows_what_the_features_show(tree):
    ask = EuroSATNeighbours(eurosat=tree, neighbours=3).opened(bands=S2C.bands, pixels=64)
    assert ask is not None
    assert ask(Means()) == {"knn_eurosat": 1.0}
    blind = Means()
    with torch.no_grad():
        blind.norm.weight[7] = 0.0
    assert ask(blind)["knn_eurosat"] < 1.0


def test_nothing_is_asked_without_images():
    assert EuroSATNeighbours().opened(bands=S2C.bands, pixels=64) is None


@pytest.mark.parametrize("field", [{"every_epochs": 0}, {"neighbours": 0}, {"temperature": 0.0}])
def test_nonsense_is_refused(field):
    flag = next(iter(field)).replace("_", "-")
    with pytest.raises(ValueError, match=rf"--probe\.{flag} is 0"):
        EuroSATNeighbours(**field)
