"""Trees to locations and patches: names, dates, metadata, and everything that can be wrong."""

import json
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
from trees import NAMES, write_band, write_location, write_tree

from ssl4eo_stream.bands import PRODUCTS, S1, S2C
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.sample import read_ids
from ssl4eo_stream.shard.source import (
    list_ids,
    product_folder,
    read_location,
    read_patch,
    shard_plan,
    sibling_ids,
)


@pytest.fixture
def location(tmp_path):
    """One Sentinel-1 location of four dates, without metadata."""
    folder = tmp_path / "s1" / "0000007"
    write_location(folder, S1, dates=4)
    return folder


def test_the_product_is_found_from_the_root_or_is_the_folder_itself(location):
    root = location.parent.parent
    assert product_folder(root, product="s1") == root / "s1"
    assert product_folder(root / "s1", product="s1") == root / "s1"


def test_a_source_without_the_product_says_what_is_there(location, tmp_path):
    with pytest.raises(SourceError, match="holds s1 but no s2c"):
        product_folder(tmp_path, product="s2c")
    with pytest.raises(SourceError, match="does not exist"):
        product_folder(tmp_path / "nowhere", product="s2c")
    with pytest.raises(SourceError, match="is a file"):
        product_folder(location / NAMES["s1"][0] / "VV.tif", product="s1")


def test_ids_have_six_or_seven_digits_and_other_names_are_no_locations(tmp_path):
    for name in ("000012", "0000345", "1234567", "12", "00000012", "logs", "T1"):
        (tmp_path / name).mkdir()
    (tmp_path / "0000099").write_text("a file")
    assert list_ids(tmp_path) == {12: "000012", 345: "0000345", 1234567: "1234567"}


def test_an_id_spelled_twice_is_an_error(tmp_path):
    for name in ("000012", "0000012"):
        (tmp_path / name).mkdir()
    with pytest.raises(SourceError, match="location 12 twice"):
        list_ids(tmp_path)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("12\n000345\n12\n", {12, 345}),
        ("id,lon,lat\n7,1.5,2.5\n", {7}),
        ("lon,id\n1.5,0000008\n\n", {8}),
        ("\ufeffid\n9\n", {9}),
    ],
)
def test_id_lists_with_and_without_a_header(tmp_path, text, ids):
    path = tmp_path / "ids.csv"
    path.write_text(text, encoding="utf-8")
    assert read_ids(path) == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [("name\n1\n", "line 1"), ("id\nx\n", "row 2"), ("1\n-2\n", "row 2"), ("", "no location ids"),
     ("lon,id\n3\n", "row 2")],
)  # fmt: skip
def test_a_bad_id_list_names_its_line(tmp_path, text, message):
    path = tmp_path / "ids.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=rf"ids\.csv.*{message}"):
        read_ids(path)


def test_the_plan_is_id_over_shard_size_in_order():
    assert shard_plan([9, 3, 4, 0, 8], samples_per_shard=4) == {0: (0, 3), 1: (4,), 2: (8, 9)}


def test_ids_of_the_other_products(tmp_path):
    for path in ("s1/0000001", "s1/0000002", "s2c/0000002"):
        (tmp_path / path).mkdir(parents=True)
    assert sibling_ids(tmp_path / "s2c") == {"s1": {1, 2}}
    assert sibling_ids(tmp_path) == {}


def test_dates_are_ordered_by_time_and_not_by_name(location):
    read = read_location(location, product=S1)
    assert tuple(a.name for a in read.acquisitions) == NAMES["s1"]
    assert read.acquisitions[0].time == datetime(2020, 3, 29, 0, 15, 15, tzinfo=UTC)
    assert sorted(NAMES["s1"]) != list(NAMES["s1"]), "names alone would give another order"
    assert (read.id, read.key) == (7, "0000007")


@pytest.mark.parametrize(
    ("name", "fields", "time"),
    [
        ("20201104T135121_20201104T135117_T21KXT", {}, datetime(2020, 11, 4, 13, 51, 21)),
        ("20160120_T39QZG", {}, datetime(2016, 1, 20)),
        ("20200202", {}, datetime(2020, 2, 2)),
        ("T1", {"system:time_start": 1604497881000}, datetime(2020, 11, 4, 13, 51, 21)),
        ("T1", {"properties": {"system:time_start": 0}}, datetime(1970, 1, 1)),
        ("T2", {"lon": 1, "lat": 2, "date": "2020-02-03"}, datetime(2020, 2, 3)),
    ],
)
def test_the_time_comes_from_the_name_or_the_metadata(location, name, fields, time):
    for other in NAMES["s1"][1:]:
        shutil.rmtree(location / other)
    (location / NAMES["s1"][0]).rename(location / name)
    (location / name / "metadata.json").write_text(json.dumps(fields))
    (acquisition,) = read_location(location, product=S1).acquisitions
    assert acquisition.time == time.replace(tzinfo=UTC)


@pytest.mark.parametrize("name", ["winter", "20201399", "S1A_nothing"])
def test_a_folder_without_a_date_is_an_error(location, name):
    (location / NAMES["s1"][0]).rename(location / name)
    with pytest.raises(SourceError, match=f"{name} has no date"):
        read_location(location, product=S1)


@pytest.mark.parametrize("metadata", ["flat", "nested"])
def test_metadata_is_read_flat_and_nested(tmp_path, metadata):
    write_location(tmp_path / "0000001", S2C, dates=2, metadata=metadata)
    read = read_location(tmp_path / "0000001", product=S2C)
    assert [a.cloud_percent for a in read.acquisitions] == [3.5, 3.5]
    assert read.acquisitions[0].properties == {"orbitProperties_pass": "ASCENDING"}


def test_the_position_is_the_metadata_s_or_else_the_pixels_middle(location):
    read = read_location(location, product=S1)
    assert (read.lon, read.lat) == pytest.approx((10.0, 50.0))
    assert read.acquisitions[0].cloud_percent is None
    fields = {"lon": -1.25, "lat": 2.5, "synthetic": True}
    (location / NAMES["s1"][0] / "metadata.json").write_text(json.dumps(fields))
    read = read_location(location, product=S1)
    assert (read.lon, read.lat) == (-1.25, 2.5)
    assert read.acquisitions[0].properties == {"synthetic": True}


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_damaged_metadata_names_the_file(location, text):
    (location / NAMES["s1"][0] / "metadata.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=r"metadata\.json is not readable JSON"):
        read_location(location, product=S1)


def test_a_location_without_dates_is_an_error(tmp_path):
    (tmp_path / "0000001").mkdir()
    with pytest.raises(SourceError, match=r"0000001 holds no acquisition.*--on-missing skip"):
        read_location(tmp_path / "0000001", product=S1)


def test_a_patch_has_every_band_at_its_own_size(tmp_path):
    ((written,),) = write_tree(tmp_path, "s2c", [3], dates=1).values()
    location = read_location(tmp_path / "s2c" / "0000003", product=S2C)
    patch = read_patch(location.acquisitions[0], product=S2C)
    for band, pixels, expected in zip(S2C.bands, patch.bands, written, strict=True):
        assert pixels.shape == (band.pixels, band.pixels)
        np.testing.assert_array_equal(pixels, expected)
    folder = tmp_path / "s2c" / "0000003" / NAMES["s2c"][0]
    assert patch.bytes_read == sum(path.stat().st_size for path in folder.glob("*.tif"))


def _broken(folder, how):
    path = folder / "VH.tif"
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:100_000])
    elif how == "size":
        write_band(path, np.zeros((132, 132), np.float32))
    elif how == "dtype":
        write_band(path, np.zeros((264, 264), np.uint16))
    elif how == "nan":
        pixels = np.zeros((264, 264), np.float32)
        pixels[5, :3] = np.nan, np.inf, -np.inf
        write_band(path, pixels)
    elif how == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    ("how", "message"),
    [("missing", "is missing"), ("cut", "cut or damaged"), ("size", "132 × 132"),
     ("dtype", "uint16"), ("nan", "3 pixels without a value"), ("folder", "can't be read")],
)  # fmt: skip
def test_a_broken_band_names_its_file_and_what_to_do(location, how, message):
    _broken(location / NAMES["s1"][0], how)
    acquisition = read_location(location, product=S1).acquisitions[0]
    with pytest.raises(SourceError, match=rf"{NAMES['s1'][0]}/VH\.tif.*{message}"):
        read_patch(acquisition, product=S1)


def test_the_wrong_product_names_the_band_that_is_not_there(location):
    acquisition = read_location(location, product=S1).acquisitions[0]
    other = PRODUCTS["s2c"]
    with pytest.raises(SourceError, match=r"B2\.tif is missing"):
        read_location(location, product=other)
    assert acquisition.bands[0].name == "VV.tif"
