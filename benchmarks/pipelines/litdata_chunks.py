"""LitData: the same members, arrays or JPEGs in its chunks."""

import os
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.contender import BATCH, Batch, Contender, endless
from pipelines.generic_views import MoCoAugmentation, stacked, two_views
from pipelines.material import DATES, QUALITY, Material, jpegs_of, upsampled
from pipelines.rendering import MemberRenderer
from pipelines.stream import manifest_of, members_of

os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")  # it asks a package index otherwise

import litdata  # pyright: ignore[reportMissingImports]
from litdata import StreamingDataLoader, StreamingDataset  # pyright: ignore[reportMissingImports]

CHUNK = "64MB"

Sample = dict[str, Any]


def write_chunks(folder: Path, sample_of: Callable[[int], Sample], locations: int) -> None:
    """Write a data set with `litdata.optimize`."""
    litdata.optimize(
        fn=sample_of, inputs=list(range(locations)), output_dir=str(folder), chunk_bytes=CHUNK,
        num_workers=1, start_method="fork", verbose=False,
    )  # fmt: skip


def members(location: int, *, found: dict[int, list[bytes]]) -> Sample:
    """Return a sample of members."""
    return {f"t{date}": found[location][date] for date in range(DATES)}


def arrays(location: int, *, material: Material) -> Sample:
    """Return a sample of images at 10 m."""
    patches = [material.patches[date] for date in material.dates_of(location)]
    return {f"t{date}": upsampled(planes) for date, planes in enumerate(patches)}


def jpegs(location: int, *, material: Material) -> Sample:
    """Return a sample of lists of JPEGs, one per band."""
    return {
        f"t{date}": litdata.JpegArray([
            litdata.Jpeg(bytes=jpeg) for jpeg in jpegs_of(material.patches[patch])
        ])
        for date, patch in enumerate(material.dates_of(location))
    }  # fmt: skip


def ours(sample: Sample, *, render: MemberRenderer) -> list[Tensor]:
    """Make our views of members."""
    return render([sample[f"t{date}"] for date in range(DATES)])


def of_arrays(sample: Sample, *, augmentation: MoCoAugmentation) -> list[Tensor]:
    """Make torchvision's views of arrays."""
    return two_views(
        lambda date: torch.as_tensor(sample[f"t{date}"]), augmentation, num_dates=DATES
    )


def of_jpegs(sample: Sample, *, augmentation: MoCoAugmentation) -> list[Tensor]:
    """Make torchvision's views of decoded JPEGs, tensors (1, H, W)."""
    return two_views(
        lambda date: stacked([band[0] for band in sample[f"t{date}"]]), augmentation,
        num_dates=DATES,
    )  # fmt: skip


class Chunks:
    """A StreamingDataset with a transform, in a StreamingDataLoader."""

    def __init__(self, folder: Path, transform: Callable[[Sample], list[Tensor]]) -> None:
        self._folder, self._transform = folder, transform

    def start(self, workers: int) -> Generator[Batch, None, None]:
        """Yield batches; workers stay for the next epoch."""
        dataset = StreamingDataset(
            str(self._folder), shuffle=True, drop_last=True, transform=self._transform
        )
        loader = StreamingDataLoader(
            dataset, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0,
            drop_last=True,
        )  # fmt: skip
        yield from endless(loader)


def contenders(material: Material) -> list[Contender]:
    """Return members with our decoder and views, arrays and JPEGs with torchvision's."""
    shards = material.shards(f"jpeg:{QUALITY}")
    augmentation = MoCoAugmentation()
    layouts: tuple[tuple[str, Any, str, Callable[[int], Sample], Any], ...] = (
        ("LitData, our members", "our decoder and views", "members",
         partial(members, found=members_of(shards)),
         partial(ours, render=MemberRenderer(manifest_of(shards)))),
        ("LitData, arrays; torchvision v2", "as documented", "arrays",
         partial(arrays, material=material), partial(of_arrays, augmentation=augmentation)),
        ("LitData, a JPEG per band; torchvision v2", "as documented", "jpegs",
         partial(jpegs, material=material), partial(of_jpegs, augmentation=augmentation)),
    )  # fmt: skip
    found = []
    for name, kind, layout, sample_of, transform in layouts:
        folder = material.root / f"litdata-{layout}"
        if not folder.exists():
            write_chunks(folder, sample_of, material.locations)
        run = Chunks(folder, transform)
        found.append(Contender(name=name, kind=kind, views=2, start=run.start))
    return found
