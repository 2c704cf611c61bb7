"""This package's loader, and what bounds it: the same work on members that lie in memory."""

import tarfile
from collections.abc import Generator, Mapping
from pathlib import Path

import numpy as np
import torch

from pipelines.contender import BATCH, SIZE, Batch, Contender
from pipelines.material import Material
from pipelines.rendering import no_lap
from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews, OneView
from ssl4eo_stream.shard.manifest import MANIFEST, Manifest
from ssl4eo_stream.stream.decode import Decoder
from ssl4eo_stream.stream.setup import Views

STAGES = ("fetch", "decode", "resize", "photometric", "blur", "other")


def manifest_of(shards: Path) -> Manifest:
    """Return a local data set's manifest."""
    return Manifest.from_json((shards / MANIFEST).read_bytes(), url=str(shards))


def members_of(shards: Path) -> dict[int, list[bytes]]:
    """Return every location's members in order of time."""
    found: dict[int, list[bytes]] = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                if entry.name.endswith(".tif"):
                    file = tar.extractfile(entry)
                    assert file is not None
                    found.setdefault(int(entry.name.split(".")[0]), []).append(file.read())
    return found


class Streamed:
    """StreamLoader, and what it says of its last slice."""

    def __init__(self, shards: Path, views: Views) -> None:
        self._shards, self._views = shards, views
        self._details: dict[str, float] = {}

    def start(self, workers: int) -> Generator[Batch, None, None]:
        """Yield batches; the loader goes from epoch to epoch as it does in training."""
        loader = StreamLoader(
            str(self._shards), views=self._views, batch_size=BATCH, workers=workers
        )
        try:
            while True:
                for batch in loader:
                    yield batch.views
        finally:
            stats = loader.stats()
            self._details = {"kB/sample": stats["bytes_per_sample"] / 1000} | {
                f"{stage} %": 100 * stats.get(f"share_{stage}", 0.0) for stage in STAGES
            }
            loader.close()

    def details(self) -> Mapping[str, float]:
        """Return kilobytes per sample, and the parts of the working time."""
        return self._details


class InMemory:
    """Decoder and views alone, into one batch that is used again."""

    def __init__(self, shards: Path, views: Views) -> None:
        self._decoder = Decoder(manifest_of(shards))
        self._locations = list(members_of(shards).values())
        self._views = views

    def start(self, workers: int) -> Generator[Batch, None, None]:
        """Yield the batch, filled anew each time, in this process."""
        assert workers == 0
        views, rng = self._views, np.random.default_rng(0)
        channels = len(self._decoder(self._locations[0][0], name="member"))
        batch = [np.empty((BATCH, *shape), np.uint8) for shape in views.shapes(channels)]
        tensors = [torch.from_numpy(each) for each in batch]
        while True:
            for i, location in enumerate(rng.integers(len(self._locations), size=BATCH).tolist()):
                members = self._locations[location]
                dates = views.dates(len(members), rng=rng)
                planes = {date: self._decoder(members[date], name="member") for date in set(dates)}
                for view, date in enumerate(dates):
                    views.render(planes[date], view=view, rng=rng, out=batch[view][i], lap=no_lap)
            yield tensors


def contenders(material: Material, *, codecs: tuple[str, ...]) -> list[Contender]:
    """Return the loader at each codec, one view at the first, and the bounds of the first."""
    moco, mae = MoCoViews(size=SIZE), OneView(size=SIZE)
    found = []
    for codec in codecs:
        streamed = Streamed(material.shards(codec), moco)
        found.append(
            Contender(name=f"StreamLoader, {codec}", kind="ours", views=2,
                      start=streamed.start, details=streamed.details)
        )  # fmt: skip
    first = material.shards(codecs[0])
    single = Streamed(first, mae)
    found.append(
        Contender(name=f"StreamLoader, {codecs[0]}", kind="ours", views=1,
                  start=single.start, details=single.details)
    )  # fmt: skip
    found.extend(
        Contender(name=f"decoder and views on memory, {codecs[0]}", kind="bound",
                  views=views.num_views, start=InMemory(first, views).start)
        for views in (moco, mae)
    )  # fmt: skip
    return found
