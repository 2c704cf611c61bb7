"""From the loader to the device: views made by workers, or there."""

from functools import partial

import pytest
import torch

from ssl4eo_stream import Selection, StreamLoader
from ssl4eo_stream.augment.device import DeviceViews
from ssl4eo_stream.augment.native import NativeViews
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.train.feed import on_device


@pytest.mark.parametrize("workers", [0, 1])
def test_the_device_renders_what_workers_would(shards, workers):
    """Same boxes, mirrors and radiometry; pixels differ by rounding alone."""
    views = MoCoViews(size=32)
    made = []
    for chosen in (views, partial(NativeViews.over, views)):
        with StreamLoader(str(shards), views=chosen, batch_size=4, workers=workers) as loader:
            native = loader.views if isinstance(loader.views, NativeViews) else None
            render = DeviceViews(native) if native else None
            made.append([
                torch.stack([view.clone() for view in each]).int()
                for each, _ in on_device(loader, device=torch.device("cpu"), render=render)
            ])  # fmt: skip
    assert len(made[0]) == len(made[1]) == 4
    for ours, theirs in zip(*made, strict=True):
        assert (ours - theirs).abs().max() <= 2
        assert (ours - theirs).abs().float().mean() < 0.1


def test_native_views_of_some_bands(shards):
    """Sides are those of the bands that are read."""
    views = partial(NativeViews.over, MoCoViews(size=32))
    select = Selection(bands=("B4", "B5", "B1"))
    with StreamLoader(str(shards), views=views, batch_size=8, select=select) as loader:
        native = loader.views
        assert isinstance(native, NativeViews)
        assert native.sides == (264, 132, 44)
        for batch in loader:
            for view in DeviceViews(native)(batch.views):
                assert view.shape == (8, 3, 32, 32)
