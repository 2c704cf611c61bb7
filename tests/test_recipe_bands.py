"""Every recipe on 2 to 15 bands by one flag, `--data` or `--select.bands`."""

import pytest
from test_recipes import METHOD, RECIPES, SMALL, load
from trees import write_tree

from ssl4eo_stream.shard.build import build
from ssl4eo_stream.train.checkpoint import Checkpoint, checkpoints
from ssl4eo_stream.train.loop import train
from ssl4eo_stream.train.run import from_command_line

BANDS = {
    2: (["s1"], []),
    3: (["s2c"], ["--select.bands", "B4", "B3", "B2"]),
    12: (["s2a"], []),
    13: (["s2c"], []),
    15: (["s1", "s2c"], []),
}
"""Channels -> the products, and what else a command line says."""


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Shards of eight places as every sensor saw them."""
    folder = tmp_path_factory.mktemp("products")
    for name in ("s1", "s2a", "s2c"):
        write_tree(folder / "tree", name, range(8), dates=2)
    for name in ("s1", "s2a", "s2c"):
        build(folder / "tree", folder / name, product=name, samples_per_shard=8, workers=0)
    return folder


@pytest.mark.parametrize("channels", BANDS)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_one_flag_changes_the_bands(recipe, channels, products, tmp_path):
    names, flags = BANDS[channels]
    module = load(recipe)
    run = from_command_line(
        module.RUN,
        arguments=["--data", *(str(products / name) for name in names), *flags, "--output",
                   str(tmp_path), *SMALL, *METHOD[recipe.stem], "--max-steps", "1"],
    )  # fmt: skip
    train(run, module.build)
    weights = Checkpoint.read(checkpoints(tmp_path)[0]).model
    first = next(value for value in weights.values() if value.ndim == 4 and value.shape[1] > 1)
    assert first.shape[1] == channels
