"""How many samples/s does one core feed, and how long does a device need, if it renders the views?

Run: `taskset -c 1 python benchmarks/device.py --data TREE`, TREE being Sentinel-2 L1C as published.

A sample is a location of four dates seen in two MoCo views of 224 × 224, all 13 bands. Three
loaders on one core, one after the other in every repeat, ratios within a repeat: the published
pipeline on an LMDB of the same pixels (`lmdb_baseline.py`), this loader with views rendered on the
CPU, and this loader handing over native planes (fetch, CRC, decode, copy). Where there is a GPU:
its time for one batch, copied and rendered, as it stands and under `torch.compile`. Last, how far
the device's views are from the CPU path's on the same samples, in grey levels of 0-255, for each
type of number; without a GPU the same code computes that on the CPU.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import torch
from lmdb_baseline import PublishedDataset, write_lmdb
from pipelines.material import Material
from report import summary, table, write_result
from torch import Tensor

from ssl4eo_stream.augment.device import DeviceViews
from ssl4eo_stream.augment.native import NativeViews
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.bands import S2C
from ssl4eo_stream.stream.loader import StreamLoader

VIEWS = MoCoViews()
NATIVE = NativeViews.over(VIEWS, bands=S2C.bands)
BATCH = 16
PUBLISHED, ON_CPU, ON_DEVICE = "published, LMDB", "views on the CPU", "views left to the device"
STAGES = ("fetch", "decode", "other")


def compare_loaders(material: Material, *, codec: str, repeats: int) -> list[dict[str, object]]:
    """Return a row per loader: samples/s and ratios."""
    count = write_lmdb(material.root / "lmdb", material.images())
    shards = str(material.shards(codec))
    dataset = PublishedDataset(material.root / "lmdb", length=count, seed=0)
    published = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True)
    loaders = {
        ON_CPU: StreamLoader(shards, views=VIEWS, batch_size=BATCH),
        ON_DEVICE: StreamLoader(shards, views=NATIVE, batch_size=BATCH),
    }
    rates: dict[str, list[float]] = {PUBLISHED: [], **{name: [] for name in loaders}}
    shares: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for repeat in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        for _ in published:
            pass
        measured = {PUBLISHED: count / (time.perf_counter() - start)}
        stats = {}
        for name, loader in loaders.items():
            loader.stats()
            for _ in loader:
                pass
            stats = loader.stats()
            measured[name] = stats["samples_per_second"]
        if repeat:
            for name, rate in measured.items():
                rates[name].append(rate)
            for stage in STAGES:
                shares[stage].append(stats[f"share_{stage}"])
    dataset.close()
    rows = []
    for name, values in rates.items():
        rate = summary(values)
        row = {"what": f"{name}, {codec}" if name in loaders else name, "unit": "samples/s", **rate}
        for other in (PUBLISHED, ON_CPU):
            if name in loaders and name != other:
                pairs = zip(values, rates[other], strict=True)
                ratio = summary([ours / theirs for ours, theirs in pairs], digits=2)
                row[f"ratio to {other}"] = ratio["median"]
                row[f"quartiles of that to {other}"] = f"{ratio['low']}–{ratio['high']}"
        if name == ON_DEVICE:
            for stage in STAGES:
                row[f"{stage} %"] = round(100 * summary(shares[stage], digits=4)["median"])
        rows.append(row)
    return rows


def both(shards: Path) -> tuple[list[Tensor], list[Tensor]]:
    """Return the same samples twice: as native rows, and as the CPU path renders them."""
    batches = [
        next(iter(StreamLoader(str(shards), views=views, batch_size=BATCH)))
        for views in (NATIVE, VIEWS)
    ]
    assert batches[0].keys == batches[1].keys
    return list(batches[0].views), list(batches[1].views)


def errors(
    rows: Sequence[Tensor], cpu: Sequence[Tensor], *, device: str
) -> list[dict[str, object]]:
    """Return a row per number type: greatest and mean difference to the CPU path's views."""
    table_rows = []
    for dtype in (torch.float32, torch.float16):
        views = DeviceViews(NATIVE, dtype=dtype)([each.to(device) for each in rows])
        gaps = torch.cat([
            (ours.cpu().int() - theirs.int()).abs().flatten(1)
            for ours, theirs in zip(views, cpu, strict=True)
        ]).float()  # fmt: skip
        table_rows.append({
            "what": f"difference to the CPU path, {str(dtype).removeprefix('torch.')}, {device}",
            "unit": "grey levels",
            "mean": round(gaps.mean().item(), 3),
            "mean of the worst view": round(gaps.mean(1).max().item(), 3),
            "max": int(gaps.max().item()),
        })  # fmt: skip
    return table_rows


def gpu_milliseconds(work: Callable[[], object], *, repeats: int) -> list[float]:
    """Return the GPU time of each call of `work`."""
    times = []
    for repeat in range(repeats + 3):  # the first three warm up, and compile
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        if repeat >= 3:
            times.append(begin.elapsed_time(end))
    return times


def on_gpu(rows: Sequence[Tensor], *, batch: int, repeats: int) -> list[dict[str, object]]:
    """Return a row per way of rendering two views of a batch on the GPU, and one for the copy."""
    pinned = [each.repeat(-(-batch // len(each)), 1, 1, 1)[:batch].pin_memory() for each in rows]
    there = [each.cuda() for each in pinned]
    ways: dict[str, Callable[[], object]] = {
        "native rows to the GPU": lambda: [each.cuda(non_blocking=True) for each in pinned]
    }
    for dtype in (torch.float16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        plain = DeviceViews(NATIVE, dtype=dtype)
        compiled = torch.compile(DeviceViews(NATIVE, dtype=dtype))
        ways[f"render, {name}"] = lambda plain=plain: plain(there)
        ways[f"render, {name}, torch.compile"] = lambda compiled=compiled: compiled(there)
    table_rows = []
    for name, work in ways.items():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        milliseconds = gpu_milliseconds(work, repeats=repeats)
        table_rows.append({
            "what": f"{name}, batch of {batch}", "unit": "ms", **summary(milliseconds, digits=2),
            "samples/s": round(batch / summary(milliseconds, digits=4)["median"] * 1000),
            "peak MB": round((torch.cuda.max_memory_allocated() - held) / 1e6),
        })  # fmt: skip
    return table_rows


def main() -> None:
    """Measure, print and write."""
    question, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--data", type=Path, required=True, help="tree of GeoTIFFs")
    parser.add_argument("--codec", default="jpeg:75")
    parser.add_argument("--locations", type=int, default=128, help="to grow the tree to")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=256, help="samples per batch on the GPU")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        material = Material(source=options.data, root=Path(name), locations=options.locations)
        result = compare_loaders(material, codec=options.codec, repeats=options.repeats)
        rows, cpu = both(material.shards(options.codec))
    if torch.cuda.is_available():
        result += on_gpu(rows, batch=options.batch, repeats=options.repeats)
    result += errors(rows, cpu, device="cuda" if torch.cuda.is_available() else "cpu")
    print(table(result))
    path = write_result("device", question=question, repeats=options.repeats, rows=result)
    print(path.name)


if __name__ == "__main__":
    main()
