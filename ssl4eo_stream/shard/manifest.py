"""What was written: `manifest.json` and `index.parquet` of one product's shards.

The index is both the loader's table of byte ranges and the user's table of places (GeoParquet, a
row per location in shard order). The manifest names the shards with their sha256 and is written
last: a folder without it is an unfinished data set.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int32, Int64, UInt32

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.store import Store

MANIFEST = "manifest.json"
INDEX = "index.parquet"
SCHEMA_VERSION = 2

GEO_COLUMN = {"encoding": "WKB", "geometry_types": ["Point"]}
GEO = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": GEO_COLUMN}}
COLUMNS = {
    "id": pa.string(), "shard": pa.int32(), "geometry": pa.binary(),
    "acquisition": pa.list_(pa.string()), "time": pa.list_(pa.timestamp("s", tz="UTC")),
    "cloud_percent": pa.list_(pa.float32()), "member_offset": pa.list_(pa.int64()),
    "member_length": pa.list_(pa.int64()), "member_crc32c": pa.list_(pa.uint32()),
    "page_end": pa.list_(pa.int64()), "page_crc32c": pa.list_(pa.uint32()),
}  # fmt: skip
SCHEMA = pa.schema(
    [pa.field(name, kind, nullable=False) for name, kind in COLUMNS.items()],
    metadata={b"geo": json.dumps(GEO).encode()},
)
LISTS = ("member_offset", "member_length", "member_crc32c", "page_end", "page_crc32c")
"""Columns of the schema that the loader reads: lists of numbers."""


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """One location of one product: where it lies on Earth and in its shard."""

    id: str
    """Location id, seven digits; the tar members' key."""
    shard: int
    """Number of the shard; the manifest has its file's name."""
    lon: float
    """Longitude of the patch centre, degrees (WGS 84)."""
    lat: float
    """Latitude of the patch centre, degrees (WGS 84)."""
    acquisition: tuple[str, ...]
    """Acquisition (scene) id of each date, in order of time."""
    time: tuple[datetime | None, ...]
    """Sensing time of each date, UTC; None where shards made elsewhere don't say."""
    cloud_percent: tuple[float | None, ...]
    """Scene cloud cover of each date in percent; None where the source has none (Sentinel-1)."""
    member_offset: tuple[int, ...]
    """First byte of each date's GeoTIFF in the tar."""
    member_length: tuple[int, ...]
    """Size of each date's GeoTIFF in bytes."""
    member_crc32c: tuple[int, ...]
    """CRC-32C of each date's GeoTIFF."""
    page_end: tuple[int, ...]
    """Bytes of each GeoTIFF's beginning that hold a page and all before it: for every page but the
    last, whose end is the member's, all of the first date, then all of the second, …"""
    page_crc32c: tuple[int, ...]
    """CRC-32C of each such beginning."""


def point_wkb(lon: float, lat: float) -> bytes:
    """Return a point as little-endian well-known binary (OGC 06-103r4)."""
    return b"\x01\x01\x00\x00\x00" + np.array([lon, lat], "<f8").tobytes()


def index_table(rows: Sequence[IndexRow]) -> pa.Table:
    """Return index rows as an Arrow table of the schema above."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for row in rows:
        values = asdict(row)
        columns["geometry"].append(point_wkb(values.pop("lon"), values.pop("lat")))
        for name, value in values.items():
            columns[name].append(value)
    return pa.table(columns, schema=SCHEMA)


def index_bytes(table: pa.Table) -> bytes:
    """Return the index as the bytes of a GeoParquet file; the same rows give the same bytes."""
    sink, rows = io.BytesIO(), table.cast(SCHEMA).replace_schema_metadata(SCHEMA.metadata)
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard as the manifest lists it."""

    number: int
    """Shard number: location id // samples per shard, or any where those are 0."""
    name: str
    """File name beside the manifest."""
    locations: int
    """Locations inside."""
    bytes: int
    """Size of the tar."""
    sha256: str
    """Hash of the tar, hexadecimal."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder of shards holds. Its bytes are reproducible; `hash` identifies the data set."""

    schema_version: int
    """Version of this file's form."""
    product: str
    """`s1`, `s2a` or `s2c`."""
    bands: tuple[str, ...]
    """Band names in channel order."""
    pages: tuple[tuple[str, ...], ...]
    """Band names of every GeoTIFF page, in sample order: 10 m, 20 m, 60 m."""
    codec: str
    """`jpeg:Q`, `zstd` or `zstd16`; for shards made elsewhere also another compression's name,
    `jpeg:?` for a quality that the tables don't tell, or several, joined by `+`."""
    dtype: str
    """NumPy type of the stored pixels: uint8, or the product's own for `zstd16`."""
    scale: tuple[float, ...]
    """Per band, value = stored * scale + offset."""
    offset: tuple[float, ...]
    """Per band, in DN (S2) or dB (S1)."""
    samples_per_shard: int
    """Ids per shard: shard number = id // this; 0 for shards made elsewhere by another rule."""
    locations: int
    """Locations in all shards."""
    patches: int
    """Patches (location × date) in all shards."""
    shards: tuple[ShardEntry, ...]
    """The shards by number."""
    index_sha256: str
    """Hash of `index.parquet`, hexadecimal."""
    source: str | None = None
    """Release that the pixels are of, if it is not SSL4EO-S12 v1.0: `SSL4EO-S12 v1.1`."""
    dn_offset: int | None = None
    """What was subtracted from the source's DN, which have no offset here; None for v1.0."""

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return f"{json.dumps(said, indent=1)}\n".encode()

    @classmethod
    def from_json(cls, data: bytes, *, url: str) -> "Manifest":
        """Read the file's bytes; `url` is named in errors.

        Raises:
            ShardError: The bytes are not a manifest of a known version.
        """
        try:
            fields = json.loads(data)
            version = fields["schema_version"]
            if version == SCHEMA_VERSION:
                if fields["product"] not in PRODUCTS:
                    raise ValueError(f"there is no product {fields['product']!r}")
                for name in ("bands", "scale", "offset"):
                    fields[name] = tuple(fields[name])
                fields["pages"] = tuple(tuple(page) for page in fields["pages"])
                fields["shards"] = tuple(ShardEntry(**shard) for shard in fields["shards"])
                return cls(**fields)
        except (ValueError, KeyError, TypeError) as error:
            raise ShardError(
                f"{url} is not a manifest of ssl4eo shards: {error}. Copy it again, or run "
                "ssl4eo-shard index on its folder: it writes manifest and index anew."
            ) from error
        remedy = (
            "Run ssl4eo-shard index on its folder: it writes manifest and index anew and "
            "leaves the shards as they are."
            if version == 1
            else "Update ssl4eo-stream."
        )
        raise ShardError(
            f"{url} has schema version {version}; this release reads {SCHEMA_VERSION}. {remedy}"
        )

    @property
    def hash(self) -> str:
        """Sha256 of the manifest: equal hashes are equal data sets."""
        return hashlib.sha256(self.to_json()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Index:
    """The index as flat arrays: location i has dates `first_date[i] … first_date[i + 1] - 1`."""

    ids: Int64[np.ndarray, " n"]
    """Location ids as numbers."""
    shards: Int32[np.ndarray, " n"]
    """Shard number of each location."""
    first_date: Int64[np.ndarray, " n_plus_1"]
    """Where each location's dates begin in the arrays below."""
    offsets: Int64[np.ndarray, " d"]
    """First byte of each member in its tar."""
    lengths: Int64[np.ndarray, " d"]
    """Size of each member in bytes."""
    crc32c: UInt32[np.ndarray, " d"]
    """CRC-32C of each member."""
    page_ends: Int64[np.ndarray, "d p"]
    """Bytes of each member's beginning that hold page k and all before it: page k lies within
    [page_ends[k - 1], page_ends[k]) where this package wrote it; the last is the length."""
    page_crc32c: UInt32[np.ndarray, "d p"]
    """CRC-32C of each such beginning; the last is the member's."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_parquet(cls, data: bytes, *, url: str) -> "Index":
        """Read the bytes of `index.parquet`; `url` is named in errors.

        Raises:
            ShardError: The bytes are not such an index.
        """
        columns = ["id", "shard", *LISTS]
        try:
            table = pq.read_table(pa.BufferReader(data), columns=columns).combine_chunks()
            if missing := sorted(set(columns) - set(table.column_names)):
                raise KeyError(f"no column {', '.join(missing)}")
            table = table.cast(pa.schema([SCHEMA.field(name) for name in columns]))
            ids = np.asarray(table["id"].cast(pa.int64()))
            lists = {name: table[name].combine_chunks() for name in LISTS}
            flat = {name: each.flatten().to_numpy() for name, each in lists.items()}
        except (pa.ArrowException, KeyError, OSError, ValueError) as error:
            raise ShardError(
                f"{url} is not an index of ssl4eo shards: {error}. "
                "Run ssl4eo-shard index on its folder: it writes the index anew."
            ) from error
        counts = lists["member_offset"].value_lengths().to_numpy()
        dates = int(counts.sum())
        before = len(flat["page_end"]) // max(dates, 1)  # pages but the last
        for name, per_date in zip(LISTS, (1, 1, 1, before, before), strict=True):
            if not np.array_equal(lists[name].value_lengths().to_numpy(), counts * per_date):
                raise ShardError(
                    f"{url}: {name} has not {per_date} values for every date. "
                    "Run ssl4eo-shard index on its folder: it writes the index anew."
                )

        def with_last(name: str, last: str) -> np.ndarray:
            return np.column_stack([flat[name].reshape(dates, before), flat[last]])

        return cls(
            ids=ids,
            shards=np.asarray(table["shard"]),
            first_date=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
            offsets=flat["member_offset"],
            lengths=flat["member_length"],
            crc32c=flat["member_crc32c"],
            page_ends=with_last("page_end", "member_length"),
            page_crc32c=with_last("page_crc32c", "member_crc32c"),
        )


def read_manifest(store: Store) -> Manifest:
    """Read a folder's manifest; raises as `Store.read` and `Manifest.from_json` do."""
    return Manifest.from_json(store.read(MANIFEST), url=f"{store.url}/{MANIFEST}")


def read_data_set(store: Store) -> tuple[Manifest, Index]:
    """Read manifest and index of a folder of shards.

    Raises:
        StorageError: They can't be read.
        ShardError: They are not what they should be, or don't belong together.
    """
    manifest, data = read_files(store)
    return manifest, Index.from_parquet(data, url=f"{store.url}/{INDEX}")


def read_files(store: Store) -> tuple[Manifest, bytes]:
    """Read the manifest, and the bytes of the index; raises what `read_data_set` does."""
    manifest = read_manifest(store)
    data = store.read(INDEX)
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise ShardError(
            f"{store.url}/{INDEX} is not the one that {MANIFEST} belongs to: a copy in progress, "
            "or a build that did not finish. Copy both again, or run ssl4eo-shard build again."
        )
    return manifest, data


def shard_name(product: str, number: int) -> str:
    """Return the file name of a shard."""
    return f"{product}-{number:06d}.tar"
