"""webdataset over our shards, and over tars with a JPEG per band."""

import io
import random
import tarfile
import warnings
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import tifffile
import torch
from torch import Tensor
from webdataset.autodecode import handle_extension
from webdataset.compat import WebDataset, WebLoader

from pipelines.contender import BATCH, Batch, Contender
from pipelines.generic_views import MoCoAugmentation, stacked
from pipelines.material import DATES, QUALITY, SAMPLES_PER_SHARD, Material, jpegs_of
from pipelines.rendering import MemberRenderer, Renderer
from pipelines.stream import manifest_of
from ssl4eo_stream.bands import S2C

BANDS = len(S2C.bands)
SHUFFLED = 100
"""Samples that webdataset's shuffle holds."""

Sample = dict[str, Any]


def write_band_tars(material: Material, folder: Path) -> None:
    """Write tars whose samples hold a JPEG per date and band, `0000012.t0.b3.jpg`."""
    jpegs = [jpegs_of(planes) for planes in material.patches]
    folder.mkdir()
    for start in range(0, material.locations, SAMPLES_PER_SHARD):
        with tarfile.open(folder / f"{start // SAMPLES_PER_SHARD:06d}.tar", "w") as tar:
            for location in range(start, min(start + SAMPLES_PER_SHARD, material.locations)):
                for date, patch in enumerate(material.dates_of(location)):
                    for band, jpeg in enumerate(jpegs[patch]):
                        entry = tarfile.TarInfo(f"{location:07d}.t{date}.b{band}.jpg")
                        entry.size = len(jpeg)
                        tar.addfile(entry, io.BytesIO(jpeg))


class Tars:
    """A webdataset pipeline in a DataLoader."""

    def __init__(self, folder: Path, stages: Callable[[Any], Any]) -> None:
        self._urls = [str(path) for path in sorted(folder.glob("*.tar"))]
        self._stages = stages

    def start(self, workers: int) -> Generator[Batch, None, None]:
        """Yield batches of shards drawn one by one: shuffled, batched in the pipeline."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says that resampling shuffles
            dataset = WebDataset(self._urls, resampled=True, shardshuffle=False)
        dataset = self._stages(dataset.shuffle(SHUFFLED)).batched(BATCH)
        loader = WebLoader(dataset, batch_size=None, num_workers=workers)
        yield from loader


def our_members(sample: Sample, *, render: MemberRenderer) -> tuple[Tensor, ...]:
    """Make our views of a sample's members."""
    return tuple(render([sample[f"t{date}.tif"] for date in range(DATES)]))


def our_bands(sample: Sample, *, renderer: Renderer) -> tuple[Tensor, ...]:
    """Decode a JPEG per band with our codec, and make our views of them."""

    def planes_of(date: int) -> list[np.ndarray]:
        return [
            simplejpeg.decode_jpeg(sample[f"t{date}.b{band}.jpg"], "GRAY")[..., 0]
            for band in range(BANDS)
        ]

    return tuple(renderer.views_of(planes_of, num_dates=DATES))


def keep_two_dates(sample: Sample) -> Sample:
    """Keep what two dates need, as `d0…` and `d1…`, so that nothing else is decoded."""
    dates = [random.randrange(DATES) for _ in range(2)]
    kept: Sample = {"__key__": sample["__key__"]}
    for view, date in enumerate(dates):
        if date in dates[:view]:
            continue
        prefix = f"t{date}."
        kept |= {
            f"d{view}." + key.removeprefix(prefix): value
            for key, value in sample.items()
            if key.startswith(prefix)
        }
    return kept


def decode_tif(data: bytes) -> Tensor:
    """Decode a member with tifffile, all pages."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = [page.asarray() for page in file.pages]
    by_page = iter(band for page in pages for band in page.reshape(-1, *page.shape[-2:]))
    in_file = [b for size in PAGE_SIZES for b, s in enumerate(BAND_SIZES) if s == size]
    planes: dict[int, Tensor] = {b: torch.from_numpy(next(by_page)) for b in in_file}
    return stacked([planes[band] for band in range(BANDS)])


BAND_SIZES = [band.pixels for band in S2C.bands]
PAGE_SIZES = sorted(set(BAND_SIZES), reverse=True)


def stack_bands(sample: Sample) -> Sample:
    """Put a date's decoded bands together."""
    return {
        f"d{view}.tif": stacked(
            [torch.from_numpy(sample[f"d{view}.b{band}.jpg"]) for band in range(BANDS)]
        )
        for view in range(2)
        if f"d{view}.b0.jpg" in sample
    }


def augment(sample: Sample, *, augmentation: MoCoAugmentation) -> tuple[Tensor, Tensor]:
    """Make torchvision's views of the two dates."""
    first = sample["d0.tif"]
    return augmentation(first), augmentation(sample.get("d1.tif", first))


def contenders(material: Material) -> list[Contender]:
    """Return both tars, each with our decoder and views and as webdataset's guide shows it."""
    shards, bands = material.shards(f"jpeg:{QUALITY}"), material.root / "band-tars"
    if not bands.exists():
        write_band_tars(material, bands)
    ours = partial(our_members, render=MemberRenderer(manifest_of(shards)))
    ours_of_bands = partial(our_bands, renderer=Renderer())
    generic = partial(augment, augmentation=MoCoAugmentation())
    tif = handle_extension("tif", decode_tif)
    pipelines: tuple[tuple[str, Any, Path, Callable[[Any], Any]], ...] = (
        ("webdataset, our shards", "our decoder and views", shards, lambda d: d.map(ours)),
        ("webdataset, a JPEG per band", "our decoder and views", bands,
         lambda d: d.map(ours_of_bands)),
        ("webdataset, our shards; tifffile, torchvision v2", "as documented", shards,
         lambda d: d.map(keep_two_dates).decode(tif).map(generic)),
        ('webdataset, a JPEG per band; decode("l8"), torchvision v2', "as documented", bands,
         lambda d: d.map(keep_two_dates).decode("l8").map(stack_bands).map(generic)),
    )  # fmt: skip
    return [
        Contender(name=name, kind=kind, views=2, start=Tars(folder, stages).start)
        for name, kind, folder, stages in pipelines
    ]
