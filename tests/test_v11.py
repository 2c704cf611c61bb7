"""The tars of SSL4EO-S12 v1.1 become the shards that a tree of the same pixels becomes."""

import json
import logging

import numpy as np
import pytest
import zarr
import zarr.storage
from hypothesis import given
from hypothesis import strategies as st
from trees import NAMES, members_of, write_tar
from zarr_shards import (
    LAT,
    LON,
    TIMES,
    location_zip,
    pixels_by_id,
    write_tars,
    write_utm_tree,
)

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import ShardError, SourceError
from ssl4eo_stream.geotiff import centre, decode_sample, read_pages
from ssl4eo_stream.shard.archive import TruncatedError
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.parts import PARTS
from ssl4eo_stream.shard.v11 import Sample, native

IDS = (216_839, 7, 80_717, 216_836, 4, 216_900)
"""In the order of the tars: not that of ids, and in three shards of 512."""
OPTIONS = {"product": "s2c", "codec": "jpeg:75", "samples_per_shard": 512, "workers": 0}
FROM = {"release": "v1.1"}


@pytest.fixture(scope="module")
def pixels():
    """L1C of six locations on two dates."""
    return pixels_by_id("s2c", IDS)


@pytest.fixture(scope="module")
def tars(pixels, tmp_path_factory):
    """The same, in tars of four and two locations."""
    folder = tmp_path_factory.mktemp("v11") / "S2L1C"
    write_tars(folder, "s2c", pixels)
    return folder


@pytest.fixture(scope="module")
def expected(tars, tmp_path_factory):
    """What a build of them makes: name -> bytes."""
    dest = tmp_path_factory.mktemp("expected")
    build(tars, dest, **OPTIONS, **FROM)
    return contents(dest)


def contents(dest):
    """Name -> bytes of a finished data set."""
    return {path.name: path.read_bytes() for path in dest.iterdir() if path.is_file()}


def skipped(dest):
    """Id -> reason of what was left out."""
    lines = (dest / "skipped.jsonl").read_text().splitlines()
    return {each["id"]: each["reason"] for each in map(json.loads, lines)}


@pytest.mark.parametrize("split", [False, True], ids=["one_chunk", "chunk_a_date"])
@pytest.mark.parametrize("product", ["s2c", "s2a", "s1"])
def test_same_shards_as_a_tree(tmp_path, product, split):
    pixels = pixels_by_id(product, (9, 3, 700))
    write_utm_tree(tmp_path / "tree", product, pixels)
    write_tars(tmp_path / "tars", product, pixels, per_tar=2, split=split)
    how = OPTIONS | {"product": product, "codec": "zstd16"}
    build(tmp_path / "tree", tmp_path / "a", **how)
    build(tmp_path / "tars", tmp_path / "b", **how, **FROM)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    manifests = [json.loads(each.pop("manifest.json")) for each in (a, b)]
    assert a == b
    assert set(a) == {"index.parquet", f"{product}-000000.tar", f"{product}-000001.tar"}
    assert manifests[1] == manifests[0] | {"source": "SSL4EO-S12 v1.1", "dn_offset": 0}


@pytest.mark.parametrize("product", ["s2c", "s2a", "s1"])
def test_pixels_in_are_pixels_out(tmp_path, product):
    pixels = pixels_by_id(product, (5, 2), dates=4)
    write_tars(tmp_path / "tars", product, pixels)
    build(tmp_path / "tars", tmp_path / "out", **OPTIONS | {"product": product, "codec": "zstd16"},
          **FROM)  # fmt: skip
    members = members_of(tmp_path / "out" / f"{product}-000000.tar")
    for i, dates in pixels.items():
        for date, arrays in enumerate(dates):
            data = members[f"{i:07d}.t{date}.tif"]
            pages = read_pages(data, name="x")
            for page, grid in zip(pages, PRODUCTS[product].grids, strict=True):
                assert centre(page.geo, page.width, page.height) == pytest.approx(
                    (LON, LAT), abs=1e-5
                )
                for k, c in enumerate(grid.channels):
                    read = decode_sample(data, page, k, name="x")
                    np.testing.assert_array_equal(read, arrays[c])
                    assert read.dtype == PRODUCTS[product].dtype


@given(st.sampled_from([44, 132, 264]), st.sampled_from(["<i2", "<f2"]), st.integers(0, 9))
def test_the_nearest_neighbour_is_undone(side, dtype, seed):
    coarse = np.random.default_rng(seed).integers(-99, 9000, (side, side)).astype(dtype)
    fine = coarse.repeat(264 // side, 0).repeat(264 // side, 1)
    back, exact = native(fine, side=side)
    np.testing.assert_array_equal(back, coarse)
    assert exact
    assert back.dtype == coarse.dtype


def test_other_resampling_is_averaged_and_told_of(tmp_path, caplog):
    def smooth(band):
        fine = band.repeat(264 // len(band), 0).repeat(264 // len(band), 1).astype(float)
        return fine if len(band) == 264 else (fine + np.roll(fine, 1, 0) + np.roll(fine, 1, 1)) // 3

    pixels = pixels_by_id("s2c", (1, 2))
    write_tars(tmp_path / "tars", "s2c", pixels, per_tar=1, resample=smooth)
    build(tmp_path / "tars", tmp_path / "out", **OPTIONS | {"codec": "zstd16"}, **FROM)
    told = [each for each in caplog.records if "means over their pixels" in each.message]
    assert len(told) == 1
    members = members_of(tmp_path / "out" / "s2c-000000.tar")
    assert {d["coarse_bands"] for d in json.loads(members["0000001.json"])["dates"]} == {"averaged"}
    page = read_pages(members["0000001.t0.tif"], name="x")[2]
    mean = smooth(pixels[1][0][0]).reshape(44, 6, 44, 6).mean((1, 3))
    read = decode_sample(members["0000001.t0.tif"], page, 0, name="x")
    np.testing.assert_allclose(read, mean, atol=0.5)


def test_what_is_said_of_a_date(expected, tmp_path):
    (tmp_path / "s2c.tar").write_bytes(expected["s2c-000000.tar"])
    said = json.loads(members_of(tmp_path / "s2c.tar")["0000004.json"])
    assert (said["lon"], said["lat"]) == (LON, LAT)
    assert said["dates"][0] == {
        "acquisition": NAMES["s2c"][0], "time": "2020-06-04T05:46:39Z", "cloud_percent": None,
        "source": "SSL4EO-S12 v1.1", "patch_cloud_percent": 50.0, "coarse_bands": "exact",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "workers"),
    [("/", 2), ("/ssl4eos12_shard_*.tar", 0), ("/ssl4eos12_shard_{000001..000002}.tar", 0)],
)
def test_what_names_the_tars(tars, expected, tmp_path, pattern, workers):
    read = []
    build(f"{tars}{pattern}", tmp_path / "out", **OPTIONS | {"workers": workers}, **FROM,
          on_read=lambda done, size: read.append((done, size)))  # fmt: skip
    assert contents(tmp_path / "out") == expected
    size = sum(path.stat().st_size for path in tars.iterdir())
    assert read[-1] == (size, size)
    assert not (tmp_path / "out" / PARTS).exists()


def test_one_tar(tars, tmp_path):
    built = build(tars / "ssl4eos12_shard_000002.tar", tmp_path / "out", **OPTIONS, **FROM)
    assert built.manifest.locations == 2
    with pytest.raises(SourceError, match=r"holds no x\*\.tar"):
        build(f"{tars}/x*.tar", tmp_path / "none", **OPTIONS, **FROM)
    with pytest.raises(ShardError, match=r"holds no \*\.tar"):
        build(tmp_path, tmp_path / "none", **OPTIONS, **FROM)


def test_from_object_storage(tars, expected, tmp_path, s3, monkeypatch):
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    url = s3.upload(tars, "v11")
    build(f"{url}/ssl4eos12_shard_*.tar", tmp_path / "out", **OPTIONS, **FROM)
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize("product", ["s2c", "s2a"])
def test_both_offsets(tmp_path, product):
    pixels = pixels_by_id(product, (9, 3))
    how = OPTIONS | {"product": product} | FROM
    for offset in (0, 1000):
        write_tars(tmp_path / f"{offset}", product, pixels, offset=offset)
        build(tmp_path / f"{offset}", tmp_path / f"out{offset}", **how, dn_offset=offset)
        with pytest.raises(SourceError, match=rf"shard_000001.tar: .* Say --dn-offset {offset};"):
            build(tmp_path / f"{offset}", tmp_path / f"new{offset}", **how, dn_offset=1000 - offset)
        # What was said wrong before anything was made binds nobody.
        build(tmp_path / f"{offset}", tmp_path / f"new{offset}", **how, dn_offset=offset)
        assert contents(tmp_path / f"new{offset}") == contents(tmp_path / f"out{offset}")
    without, raised = (contents(tmp_path / f"out{offset}") for offset in (0, 1000))
    assert without.pop("manifest.json") != raised.pop("manifest.json")
    assert without == raised
    with pytest.raises(ShardError, match="with dn_offset 0, and dn_offset 1000 was asked for"):
        build(tmp_path / "1000", tmp_path / "out0", **how, dn_offset=1000)


def test_offsets_are_not_mixed(tmp_path, pixels):
    (first, *_) = write_tars(tmp_path / "tars", "s2c", {i: pixels[i] for i in IDS[:3]})
    raised = {7_000 + i: pixels[i] for i in IDS[:3]}
    write_tars(tmp_path / "raised", "s2c", raised, offset=1000)
    first.rename(tmp_path / "raised" / "ssl4eos12_shard_000000.tar")
    with pytest.raises(SourceError, match=r"000001.tar: 0.0% of the pixels of its first 3 loc"):
        build(tmp_path / "raised", tmp_path / "out", **OPTIONS, **FROM)
    with pytest.raises(ShardError, match="with dn_offset 0, and dn_offset 1000 was asked for"):
        build(tmp_path / "raised", tmp_path / "out", **OPTIONS, **FROM, dn_offset=1000)


@pytest.mark.parametrize("offset", [0, 1000])
def test_a_date_of_another_offset(tmp_path, pixels, offset):
    raised = [[band + np.uint16(1000) for band in date] for date in pixels[4]]
    other = [raised[0], pixels[4][1]] if offset else [pixels[4][0], raised[1]]
    members = [
        (f"{i}.zarr.zip", location_zip("s2c", i, pixels[i], offset=offset)) for i in IDS if i != 4
    ]
    write_tar(tmp_path / "in.tar", [*members, ("4.zarr.zip", location_zip("s2c", 4, other))])
    with pytest.raises(SourceError, match=r"4.zarr.zip: 20200823\S+ has a median of \d+ DN in its"):
        build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM, dn_offset=offset)


def test_another_release_in_the_same_folder(tmp_path, pixels, tars):
    write_utm_tree(tmp_path / "tree", "s2c", {7: pixels[7]})
    build(tmp_path / "tree", tmp_path / "out", **OPTIONS)
    with pytest.raises(ShardError, match=r"with source None, and source SSL4EO-S12 v1.1 was asked"):
        build(tars, tmp_path / "out", **OPTIONS, **FROM)


def test_dates_are_put_in_order(tmp_path):
    """As the first copies had S1: S1A before S1B, whatever the date."""
    pixels = pixels_by_id("s1", (4,), dates=4)
    order = sorted(range(4), key=lambda t: NAMES["s1"][t])
    assert order != [0, 1, 2, 3]
    for name, how in (("sorted", {}), ("shipped", {"order": order})):
        write_tars(tmp_path / name, "s1", pixels, **how)
        build(tmp_path / name, tmp_path / f"{name}_out", **OPTIONS | {"product": "s1"}, **FROM)
    assert contents(tmp_path / "sorted_out") == contents(tmp_path / "shipped_out")


@pytest.mark.parametrize("workers", [0, 2])
def test_interrupted_again_and_again(tars, expected, tmp_path, monkeypatch, workers):
    monkeypatch.setattr("ssl4eo_stream.shard.pieces.RANGE_BYTES", 1 << 20)
    size = sum(path.stat().st_size for path in tars.iterdir())
    filed = []
    for share in (0.2, 0.4, 0.6, 0.75, 0.9):

        def interrupt(done, _size, after=share * size):
            if done > after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build(tars, tmp_path / "out", **OPTIONS | {"workers": workers}, **FROM,
                  on_read=interrupt)  # fmt: skip
        unfinished = (tmp_path / "out" / PARTS).glob("*.unfinished.tar")
        filed.append(sum(path.stat().st_size for path in unfinished))
    assert filed == sorted(filed)
    assert filed[-1] > 0
    read = []
    build(tars, tmp_path / "out", **OPTIONS | {"workers": workers}, **FROM,
          on_read=lambda done, _size: read.append(done))  # fmt: skip
    first = (tars / "ssl4eos12_shard_000001.tar").stat().st_size
    assert min(read) > first, "a tar that was read to its end is not read again"
    assert contents(tmp_path / "out") == expected


def test_a_cut_tar(tars, expected, tmp_path):
    folder = tmp_path / "S2L1C"
    folder.mkdir()
    one, two = (folder / path.name for path in sorted(tars.iterdir()))
    whole = (tars / one.name).read_bytes()
    one.write_bytes(whole[: whole.rindex(b"seasonal_data_0000003") + 9_999])
    two.write_bytes((tars / two.name).read_bytes())
    message = r"shard_000001.tar is cut or damaged behind ssl4eos12_train_seasonal_data_0000002"
    with pytest.raises(TruncatedError, match=message):
        build(folder, tmp_path / "out", **OPTIONS, **FROM)
    built = build(folder, tmp_path / "skip", **OPTIONS, **FROM, on_missing="skip")
    assert built.manifest.locations == 4
    assert "seasonal_data_0000002" in skipped(tmp_path / "skip")[one.name]
    one.write_bytes(whole)
    build(folder, tmp_path / "out", **OPTIONS, **FROM)
    assert contents(tmp_path / "out") == expected


def test_a_member_that_cannot_be_read(tars, tmp_path):
    members = members_of(tars / "ssl4eos12_shard_000001.tar")
    members["ssl4eos12_train_seasonal_data_0000002.zarr.zip"] = b"PK no zip"
    write_tar(tmp_path / "in.tar", members)
    with pytest.raises(SourceError, match=r"in.tar: ssl4eos12\S+0000002.zarr.zip is no zip.*skip"):
        build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM)
    built = build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM, on_missing="skip")
    assert built.manifest.locations == 3
    assert list(skipped(tmp_path / "out")) == ["ssl4eos12_train_seasonal_data_0000002"]


def test_what_was_left_out_stays_listed(tars, tmp_path):
    members = members_of(tars / "ssl4eos12_shard_000001.tar")
    members["ssl4eos12_train_seasonal_data_0000002.zarr.zip"] = b"PK no zip"
    write_tar(tmp_path / "in.tar", members)

    def interrupt(_shard):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM, on_missing="skip",
              on_shard=interrupt)  # fmt: skip
    with pytest.raises(SourceError, match=r"0000002.zarr.zip is no zip"):
        build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM)
    build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM, on_missing="skip")
    assert list(skipped(tmp_path / "out")) == ["ssl4eos12_train_seasonal_data_0000002"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"bands": None}, "bands can't be read: there is no such array"),
        ({"bands": np.ones((2, 13, 132, 132), "<i2")}, r"holds int16 \[2, 13, 132, 132\] of B1"),
        ({"bands": np.ones((2, 13, 264, 264), "<f2")}, "holds float16 .* Choose another --product"),
        ({"bands": np.ones((2, 12, 264, 264), "<i2"), "band": np.array(["B01"] * 12)}, "holds int"),
        ({"bands": np.full((2, 13, 264, 264), [[[[1]]], [[[0]]]], "<i2")}, "20200823.* is void"),
        ({"time": np.array([0, -(1 << 63)]), "file_id": None}, "date 0 has no time"),
        ({"time": TIMES["s2c"][[1, 0]]}, "date 0 has the time 2020-08-23T.* scene 20200604"),
        ({"time": TIMES["s2c"][:1]}, "has 2 dates, 1 times and 2 scenes"),
        ({"time": TIMES["s2c"][[0, 0]], "file_id": np.array(NAMES["s2c"])[[0, 0]]}, "date twice"),
        ({"crs": np.int64(0)}, "EPSG:0: no place"),
        ({"crs": np.int64(9999), "x": None}, "EPSG:9999 is no projection for"),
        ({"cloud_mask": np.zeros((1, 264, 264), "u1")}, r"cloud_mask is \(1, 264, 264\), not one"),
        ({"center_lat": np.float64(np.nan)}, "nan° N, EPSG:32643: no place"),
        ({"center_lon": None}, "center_lon can't be read"),
    ],
)  # fmt: skip
def test_a_location_that_cannot_be_used(tmp_path, pixels, other, message):
    members = [
        (
            f"ssl4eos12_train_seasonal_data_000000{n}.zarr.zip",
            location_zip("s2c", i, pixels[i], **o),
        )
        for n, (i, o) in enumerate([(7, {}), (4, other), (216_839, {})])
    ]
    write_tar(tmp_path / "in.tar", members)
    where = r"in.tar: ssl4eos12_train_seasonal_data_0000001.zarr.zip"
    with pytest.raises(SourceError, match=rf"{where}.*{message}.*--on-missing skip"):
        build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM)
    built = build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM, on_missing="skip")
    assert built.manifest.locations == 2
    (name,) = skipped(tmp_path / "out")
    assert name == ("ssl4eos12_train_seasonal_data_0000001" if other.get("bands", 0) is None
                    else "0000004")  # fmt: skip


def test_a_dark_pixel_of_radar_that_is_none(tmp_path):
    pixels = pixels_by_id("s1", (7,))
    pixels[7][1][0][3, 5] = np.nan
    write_tars(tmp_path / "in", "s1", pixels)
    with pytest.raises(SourceError, match=r"S1A_IW_GRDH\S+ has 1 pixels without a value"):
        build(tmp_path / "in", tmp_path / "out", **OPTIONS | {"product": "s1"}, **FROM)


@pytest.mark.parametrize("other", [{"file_id": None}, {"time": np.zeros(2, "<i8")}])
def test_a_time_or_a_scene_will_do(tmp_path, pixels, other):
    write_tars(tmp_path / "in", "s2c", {7: pixels[7]}, **other)
    build(tmp_path / "in", tmp_path / "out", **OPTIONS, **FROM)
    said = json.loads(members_of(tmp_path / "out" / "s2c-000000.tar")["0000007.json"])["dates"]
    assert [d["time"][:10] for d in said] == ["2020-06-04", "2020-08-23"]
    names = ["20200604T054639", "20200823T054639"] if "file_id" in other else NAMES["s2c"][:2]
    assert [d["acquisition"] for d in said] == list(names)


@pytest.mark.parametrize(
    ("other", "place"),
    [
        ({"sample": np.array("seven")}, "sample is 'seven', a location id has 6 or 7 digits"),
        ({"sample": None}, "sample can't be read"),
    ],
)
def test_a_member_without_an_id(tmp_path, pixels, other, place):
    write_tar(tmp_path / "in.tar", {"x.zarr.zip": location_zip("s2c", 7, pixels[7], **other)})
    with pytest.raises(SourceError, match=f"in.tar: x.zarr.zip: {place}"):
        build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM)


@pytest.mark.parametrize("x", [None, np.arange(264)], ids=["absent", "numbers"])
def test_without_metres_the_centre_places_it(tmp_path, pixels, x):
    write_tars(tmp_path / "in", "s2c", {7: pixels[7]}, x=x, y=x)
    build(tmp_path / "in", tmp_path / "out", **OPTIONS, **FROM)
    data = members_of(tmp_path / "out" / "s2c-000000.tar")["0000007.t0.tif"]
    for page in read_pages(data, name="x"):
        assert centre(page.geo, page.width, page.height) == pytest.approx((LON, LAT), abs=1e-7)


def test_a_location_in_two_tars(tmp_path, pixels, caplog):
    write_tars(tmp_path / "in", "s2c", {i: pixels[i] for i in (7, 4)}, per_tar=2)
    twice = [("a.zarr.zip", location_zip("s2c", 4, pixels[7])),
             ("b.zarr.zip", location_zip("s2c", 80_717, pixels[80_717]))]  # fmt: skip
    write_tar(tmp_path / "in" / "ssl4eos12_shard_000002.tar", twice)
    message = (
        r"000002.tar: a.zarr.zip is location 0000004, and so is "
        r"ssl4eos12_shard_000001.tar: ssl4eos12_train_seasonal_data_0000002.zarr.zip"
    )
    for _ in range(2):  # a rerun finds it again
        with pytest.raises(SourceError, match=message):
            build(tmp_path / "in", tmp_path / "out", **OPTIONS, **FROM)
    build(tmp_path / "in", tmp_path / "out", **OPTIONS, **FROM, on_missing="skip")
    assert "The first is taken." in caplog.text
    (tmp_path / "in" / "ssl4eos12_shard_000002.tar").unlink()
    write_tars(tmp_path / "in2", "s2c", {i: pixels[i] for i in (7, 4, 80_717)})
    build(tmp_path / "in2", tmp_path / "once", **OPTIONS, **FROM)
    assert contents(tmp_path / "out") == contents(tmp_path / "once")


def test_some_locations(tars, pixels, tmp_path):
    (tmp_path / "ids.csv").write_text("id\n7\n216839\n")
    build(tars, tmp_path / "out", **OPTIONS, **FROM, locations=tmp_path / "ids.csv")
    write_tars(tmp_path / "in", "s2c", {i: pixels[i] for i in (7, 216_839)})
    build(tmp_path / "in", tmp_path / "few", **OPTIONS, **FROM)
    assert contents(tmp_path / "out") == contents(tmp_path / "few")
    (tmp_path / "ids.csv").write_text("id\n7\n5\n")
    with pytest.raises(SourceError, match=r"lacks 1 locations .* 0000005"):
        build(tars, tmp_path / "no", **OPTIONS, **FROM, locations=tmp_path / "ids.csv")


def test_nothing_of_it(tars, tmp_path):
    write_tar(tmp_path / "in.tar", {"0000001.json": b"{}"})
    with pytest.raises(SourceError, match=r"in.tar holds no location .* --from the release"):
        build(tmp_path / "in.tar", tmp_path / "out", **OPTIONS, **FROM)
    with pytest.raises(SourceError, match=r"holds no location .* --from the release"):
        build(tars / "ssl4eos12_shard_000001.tar", tmp_path / "out", **OPTIONS)
    with pytest.raises(SourceError, match=r"s2a has \(dates, 12, 264, 264\)"):
        build(tars, tmp_path / "s2a", **OPTIONS | {"product": "s2a"}, **FROM)


def test_a_finished_data_set_is_left_alone(tars, expected, tmp_path, caplog):
    build(tars, tmp_path / "out", **OPTIONS, **FROM)
    with caplog.at_level(logging.WARNING):
        assert build(tars, tmp_path / "out", **OPTIONS, **FROM).kept == 3
    assert "is finished" in caplog.text
    assert contents(tmp_path / "out") == expected


def test_zarr_reads_the_same(tmp_path, pixels):
    """As the released loader opens a member."""
    (tmp_path / "x.zarr.zip").write_bytes(data := location_zip("s2c", 7, pixels[7]))
    with zarr.storage.ZipStore(tmp_path / "x.zarr.zip", mode="r") as store:
        group = zarr.open_consolidated(store, mode="r", zarr_format=2)
        assert str(group["sample"][...]) == "0000007"
        sample = Sample.of(data, where="x")
        np.testing.assert_array_equal(sample.bands(PRODUCTS["s2c"]), group["bands"][...])
    assert (sample.id, sample.dates) == (7, 2)
