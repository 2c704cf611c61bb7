"""A data set of many shards out of one: the same tar under many numbers, for benchmarks of reading.

A real data set of thousands of locations takes minutes to build and gigabytes to hold; reading it
costs the same when its shards are links to one file, whose index rows are repeated under new ids.
"""

import hashlib
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssl4eo_stream.sample import location_key
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.manifest import INDEX, MANIFEST, Manifest, index_bytes, shard_name
from ssl4eo_stream.shard.source import product_folder

SAMPLES_PER_SHARD = 512
DATES = 4


def linked_tree(tree: Path, root: Path, *, locations: int) -> Path:
    """Fill a folder with links to a tree's acquisitions, four dates for each location."""
    acquisitions = cycle(sorted(path.parent for path in tree.glob("*/*/B1.tif")))
    for location in range(locations):
        folder = root / "s2c" / f"{location:07d}"
        folder.mkdir(parents=True)
        for date, source in enumerate(islice(acquisitions, DATES)):
            (folder / f"2020{3 * date + 1:02d}01_T31TFJ").symlink_to(source.resolve())
    return root


def one_shard(data: Path, scratch: Path, *, codec: str) -> Path:
    """Return the folder of a data set of 512 locations with four dates each, all in one shard.

    Args:
        data: Tree of Sentinel-2 L1C as published, or such a data set, which is then returned.
        scratch: Where to build it.
        codec: How to encode the tree's pixels.
    """
    if (data / MANIFEST).exists():
        return data
    patches = product_folder(data, product="s2c")
    tree = linked_tree(patches, scratch / "tree", locations=SAMPLES_PER_SHARD)
    build(tree, scratch / "one", product="s2c", codec=codec, samples_per_shard=SAMPLES_PER_SHARD,
          workers=2)  # fmt: skip
    return scratch / "one"


def replicate(source: Path, dest: Path, *, shards: int) -> Path:
    """Fill a folder with a data set of so many shards, all links to the only one of another.

    Args:
        source: A finished data set of one shard, number 0.
        dest: Folder for the new one; made if missing.
        shards: How often its shard is repeated.
    """
    manifest = Manifest.from_json((source / MANIFEST).read_bytes(), url=str(source / MANIFEST))
    (entry,) = manifest.shards
    table = pq.read_table(source / INDEX).combine_chunks()
    dest.mkdir(parents=True, exist_ok=True)
    parts, entries = [], []
    for number in range(shards):
        name = shard_name(manifest.product, number)
        (dest / name).symlink_to((source / entry.name).resolve())
        entries.append(replace(entry, number=number, name=name))
        first = number * manifest.samples_per_shard
        names = pa.array([location_key(first + int(each)) for each in table["id"].to_pylist()])
        numbers = pa.array([number] * len(table), pa.int32())
        part = table.set_column(table.schema.get_field_index("id"), table.field("id"), names)
        parts.append(
            part.set_column(table.schema.get_field_index("shard"), table.field("shard"), numbers)
        )
    index = index_bytes(pa.concat_tables(parts))
    (dest / INDEX).write_bytes(index)
    whole = replace(
        manifest,
        locations=shards * manifest.locations,
        patches=shards * manifest.patches,
        shards=tuple(entries),
        index_sha256=hashlib.sha256(index).hexdigest(),
    )
    (dest / MANIFEST).write_bytes(whole.to_json())
    return dest
