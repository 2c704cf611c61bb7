"""MosaicML Streaming: the same members, arrays or JPEGs in its MDS shards."""

import warnings
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.contender import BATCH, Batch, Contender, endless
from pipelines.generic_views import MoCoAugmentation, stacked, two_views
from pipelines.material import DATES, QUALITY, Material, jpegs_of, upsampled
from pipelines.rendering import MemberRenderer
from pipelines.stream import manifest_of, members_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports warn of others' deprecations
    from streaming import MDSWriter, StreamingDataset  # pyright: ignore[reportMissingImports]
    from streaming.base.util import clean_stale_shared_memory  # pyright: ignore[reportMissingImports]

EPOCH = 20_000
"""Samples of an epoch, so that none ends while it is measured."""

Sample = dict[str, Any]


class Transformed(StreamingDataset):
    """A StreamingDataset whose samples pass through a function, as its guide subclasses it."""

    def __init__(self, folder: Path, transform: Callable[[Sample], list[Tensor]]) -> None:
        super().__init__(local=str(folder), shuffle=True, batch_size=BATCH, epoch_size=EPOCH)
        self._transform = transform

    def __getitem__(self, at: Any) -> list[Tensor]:  # noqa: ANN401 - as in its parent
        """Return a sample's views."""
        return self._transform(super().__getitem__(at))


class Shards:
    """The data set in a torch DataLoader."""

    def __init__(self, folder: Path, transform: Callable[[Sample], list[Tensor]]) -> None:
        self._folder, self._transform = folder, transform

    def start(self, workers: int) -> Generator[Batch, None, None]:
        """Yield batches."""
        clean_stale_shared_memory()
        dataset = Transformed(self._folder, self._transform)
        loader = torch.utils.data.DataLoader(
            dataset, batch_size=BATCH, num_workers=workers, drop_last=True
        )
        yield from endless(loader)


def ours(sample: Sample, *, render: MemberRenderer) -> list[Tensor]:
    """Make our views of members."""
    return render([sample[f"t{date}"] for date in range(DATES)])


def of_arrays(sample: Sample, *, augmentation: MoCoAugmentation) -> list[Tensor]:
    """Make torchvision's views of arrays."""
    return two_views(
        lambda date: torch.from_numpy(sample[f"t{date}"]), augmentation, num_dates=DATES
    )


def of_jpegs(sample: Sample, *, augmentation: MoCoAugmentation) -> list[Tensor]:
    """Make torchvision's views of JPEGs, which arrive as PIL images and are decoded here."""

    def image_of(date: int) -> Tensor:
        return stacked([torch.from_numpy(np.array(band)) for band in sample[f"t{date}"]])

    return two_views(image_of, augmentation, num_dates=DATES)


def contenders(material: Material) -> list[Contender]:
    """Return members with our decoder and views, arrays and JPEGs with torchvision's."""
    shards, augmentation = material.shards(f"jpeg:{QUALITY}"), MoCoAugmentation()
    found = members_of(shards)

    def arrays(patch: int) -> np.ndarray:
        return upsampled(material.patches[patch])

    def jpegs(patch: int) -> list[bytes]:
        return jpegs_of(material.patches[patch])

    def of_patches(encode: Callable[[int], Any]) -> Callable[[int], list[Any]]:
        return lambda location: [encode(patch) for patch in material.dates_of(location)]

    layouts: tuple[tuple[str, Any, str, Callable[[int], list[Any]], Any], ...] = (
        ("MosaicML Streaming, our members", "our decoder and views", "bytes",
         lambda location: found[location],
         partial(ours, render=MemberRenderer(manifest_of(shards)))),
        ("MosaicML Streaming, arrays; torchvision v2", "as documented", "ndarray",
         of_patches(arrays), partial(of_arrays, augmentation=augmentation)),
        ("MosaicML Streaming, a JPEG per band; torchvision v2", "as documented", "jpeg_array",
         of_patches(jpegs), partial(of_jpegs, augmentation=augmentation)),
    )  # fmt: skip
    result = []
    for name, kind, encoding, dates_of, transform in layouts:
        folder = material.root / f"mds-{encoding}"
        if not folder.exists():
            columns = {f"t{date}": encoding for date in range(DATES)}
            with MDSWriter(out=str(folder), columns=columns) as out:
                for location in range(material.locations):
                    out.write(dict(zip(columns, dates_of(location), strict=True)))
        run = Shards(folder, transform)
        result.append(Contender(name=name, kind=kind, views=2, start=run.start))
    return result
