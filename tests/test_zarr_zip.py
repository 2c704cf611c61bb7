"""Zarr in a zip is read as zarr itself reads it, or refused by name."""

import contextlib
import json
import warnings
import zipfile
from io import BytesIO

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc, Delta, Zlib
from zarr_shards import zip_folder, zipped

from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.shard.zarr_zip import ZarrZip

TYPES = ["<i2", ">i2", "|u1", "<f2", "<f8", "<i8", "<U7", "<M8[ns]"]


def values_of(shape, dtype):
    numbers = np.random.default_rng(len(shape)).integers(1, 100, shape)
    return (
        numbers.astype("<i8").astype(dtype)
        if np.dtype(dtype).kind == "M"
        else numbers.astype(dtype)
    )


@pytest.mark.parametrize("compressor", [Blosc(cname="zstd"), Blosc(shuffle=Blosc.BITSHUFFLE), None])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((), ()), ((5,), (5,)), ((5,), (2,)), ((3, 4, 7), (2, 4, 3)), ((3, 4, 7), (1, 5, 9))],
)
def test_as_zarr_reads_it(tmp_path, compressor, dtype, shape, chunks):
    group = zarr.create_group(tmp_path, zarr_format=2)
    for order in "CF":
        values = values_of(shape, dtype)
        array = group.create_array(
            order, shape=shape, dtype=dtype, chunks=chunks, order=order, fill_value=None,
            compressors=compressor,
        )  # fmt: skip
        array[...] = values
        read = ZarrZip(zip_folder(tmp_path), name="x.zarr.zip").read(order)
        np.testing.assert_array_equal(read, values)
        np.testing.assert_array_equal(read, array[...])
        assert read.dtype == array.dtype


@pytest.mark.parametrize(
    ("dtype", "fill"), [("<i2", -9999), ("<f4", np.nan), ("<f4", -np.inf), ("<u2", None)]
)
@pytest.mark.parametrize("separator", [".", "/"])
def test_missing_chunks_are_the_fill_value(tmp_path, dtype, fill, separator):
    group = zarr.create_group(tmp_path, zarr_format=2)
    array = group.create_array(
        "bands", shape=(4, 6), chunks=(2, 4), dtype=dtype, fill_value=fill,
        chunk_key_encoding={"name": "v2", "separator": separator},
    )  # fmt: skip
    array[2:, :3] = 7
    zipped_group = ZarrZip(zip_folder(tmp_path), name="x.zarr.zip")
    np.testing.assert_array_equal(zipped_group.read("bands"), array[...])
    assert zipped_group.shape("bands") == (4, 6)


def test_text_of_any_length(tmp_path):
    texts = np.array(["S1A_IW", "", "größer", "x" * 300], object)
    group = zarr.create_group(tmp_path, zarr_format=2)
    with warnings.catch_warnings(action="ignore"):  # of its fixed form in Zarr 3
        array = group.create_array("file_id", shape=(4,), dtype=str, chunks=(3,))
        array[...] = texts
    about = json.loads((tmp_path / "file_id" / ".zarray").read_text())
    assert about["filters"] == [{"id": "vlen-utf8"}]
    assert list(ZarrZip(zip_folder(tmp_path), name="x").read("file_id")) == list(texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"compressors": Zlib()}, "zlib"), ({"filters": [Delta("<i2")]}, "delta")],
)
def test_other_codecs_are_refused(tmp_path, options, message):
    array = zarr.create_group(tmp_path, zarr_format=2).create_array(
        "bands", shape=(4,), dtype="<i2", **options
    )
    array[...] = 1
    with pytest.raises(SourceError, match=rf"x.zarr.zip: bands can't be read: .*{message}.* known"):
        ZarrZip(zip_folder(tmp_path), name="x.zarr.zip").read("bands")


def test_what_is_not_there():
    data = zipped({"bands": np.ones((2, 3), "<i2")}, attributes={"bands": {"units": "DN"}})
    group = ZarrZip(data, name="x.zarr.zip")
    assert ("bands" in group, "time" in group) == (True, False)
    assert (group.attributes("bands"), group.attributes("time")) == ({"units": "DN"}, {})
    with pytest.raises(SourceError, match=r"x.zarr.zip: time can't be read: there is no such"):
        group.read("time")
    with pytest.raises(SourceError, match="bands holds 6 values, not one"):
        group.scalar("bands")
    with pytest.raises(SourceError, match=r"x.zarr.zip is no zip, or cut"):
        ZarrZip(data[:-30], name="x.zarr.zip")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_refused_or_does_no_harm(data):
    values = np.arange(600, dtype="<i2").reshape(2, 300)
    whole = bytearray(zipped({"bands": values}, chunks={"bands": (1, 300)}))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(SourceError):
        read = ZarrZip(bytes(whole), name="x.zarr.zip").read("bands")
        np.testing.assert_array_equal(read[read != 0], values[read != 0])


def test_a_damaged_chunk_in_a_sound_zip():
    data = zipped({"bands": np.arange(600, dtype="<i2")})
    sink = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[:-5] if name == "bands/0" else content)
    with pytest.raises(SourceError, match="bands can't be read: chunk 0 has"):
        ZarrZip(sink.getvalue(), name="x.zarr.zip").read("bands")
