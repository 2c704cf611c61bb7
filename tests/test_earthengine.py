"""Earth Engine by its real client, against a stand-in on loopback."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import rasterio
from google.auth.credentials import AnonymousCredentials
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rasterio.warp import transform

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.collect.earthengine import EarthEngine
from ssl4eo_stream.collect.scene import LEVELLED, MISSING, Scene, Window, box_around, patch_outline
from ssl4eo_stream.collect.taken import Place, Taken, files_of
from ssl4eo_stream.errors import ServiceError
from ssl4eo_stream.retry import RetryPolicy
from tests.earth_engine_catalog import (
    S1_NUMBERS,
    S1_TEXTS,
    S2_NUMBERS,
    S2_TEXTS,
    S2A_NUMBERS,
    TILE_METRES,
    Catalog,
)
from tests.earth_engine_server import earth_engine

QUICK = RetryPolicy(first_wait_seconds=0.01, longest_wait_seconds=0.05, stall_seconds=1.0,
                    attempt_seconds=1.5, give_up_seconds=6.0)  # fmt: skip
PLACES = {
    "Munich": (11.5755, 48.1374), "Nairobi": (36.8219, -1.2921), "Sydney": (151.21, -33.87),
    "a zone's edge, north": (11.9993, 52.1), "a zone's edge, south": (24.0004, -20.3),
    "Quito": (-78.4678, 0.012), "Tromsø": (18.9553, 69.6492),
}  # fmt: skip
SPRING = Window(start=datetime(2021, 3, 5, tzinfo=UTC), end=datetime(2021, 4, 4, tzinfo=UTC))
AUTUMN = Window(start=datetime(2021, 9, 7, tzinfo=UTC), end=datetime(2021, 10, 7, tzinfo=UTC))
NAMES = {"s1": "COPERNICUS/S1_GRD", "s2a": "COPERNICUS/S2_SR_HARMONIZED",
         "s2c": "COPERNICUS/S2_HARMONIZED"}  # fmt: skip


@pytest.fixture
def server():
    with earth_engine() as state:
        yield state


def opened(server, **options):
    options = {"policy": QUICK, "project": "test"} | options
    return EarthEngine(credentials=AnonymousCredentials(), url=server.url, **options)


def holds_patch(scene, lon, lat):
    """Whether the square around a place lies in a scene, by its own pixels."""
    (x,), (y,) = transform("EPSG:4326", f"EPSG:{scene.tile.epsg}", [lon], [lat])[:2]
    left, top = scene.tile.corner
    width = TILE_METRES / 2 if scene.is_half else TILE_METRES
    return min(x - left, left + width - x, top - y, y - top + TILE_METRES) / 1320


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_scenes_are_those_of_the_archive(server, name, where):
    lon, lat = PLACES[where]
    product, windows = PRODUCTS[name], [SPRING, AUTUMN]
    found = opened(server).scenes(product, lon=lon, lat=lat, windows=windows)
    all_there = {
        scene.name: scene
        for scene in Catalog().at(NAMES[name], lon, lat)
        if any(window.holds(scene.time) for window in windows)
        and (name != "s1" or (scene.properties()["instrumentMode"] == "IW"
                              and "VH" in scene.properties()["transmitterReceiverPolarisation"]))
    }  # fmt: skip
    names = [scene.name for scene in found]
    assert names
    assert set(names) >= {n for n, scene in all_there.items() if holds_patch(scene, lon, lat) > 1.4}
    assert set(names) <= {n for n, scene in all_there.items() if holds_patch(scene, lon, lat) > 1}
    assert [(scene.time, scene.name) for scene in found] == sorted(
        (scene.time, scene.name) for scene in found
    )
    for scene in found:
        there = all_there[scene.name]
        said = there.properties()
        marks = {"system:id": f"{NAMES[name]}/{scene.name}"} | (
            {"backscatter": "sigma nought, dB"} if name == "s1" else {"offset_convention": LEVELLED}
        )
        assert dict(scene.properties) == said | marks
        assert (scene.epsg, (scene.left, scene.top)) == (there.tile.epsg, there.tile.corner)
        assert scene.time == there.time
        if name == "s1":
            assert (scene.cloud_percent, scene.datatake) == (None, None)
            assert scene.ascending == there.ascending
        else:
            assert scene.cloud_percent == there.cloud
            assert scene.datatake == said["DATATAKE_IDENTIFIER"][: -len("_N02.09")]
    assert server.asked["value"] == 1


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_a_patch_is_the_scene_s_own_pixels(server, name, where):
    lon, lat = PLACES[where]
    product, service = PRODUCTS[name], opened(server)
    scenes = service.scenes(product, lon=lon, lat=lat, windows=[SPRING, AUTUMN])
    by_zone = {scene.epsg: scene for scene in scenes}
    assert len(by_zone) == 2 or "edge" not in where or name == "s1"
    for scene in by_zone.values():
        box = box_around(scene, lon=lon, lat=lat)
        (x,), (y,) = transform("EPSG:4326", f"EPSG:{scene.epsg}", [lon], [lat])[:2]
        step = max(band.resolution_metres for band in product.bands)
        assert abs(box.left + 1320 - x) <= step / 2 + 1e-6
        assert abs(box.top - 1320 - y) <= step / 2 + 1e-6
        pixels = service.pixels(scene, box)
        there = server.catalog.named(scene.id)
        missing = 0
        for c, band in enumerate(product.bands):
            metres = band.resolution_metres
            column, row = (box.left - scene.left) / metres, (scene.top - box.top) / metres
            assert column == int(column), "within no part of a pixel of the scene's grid"
            assert row == int(row)
            values, inside = there.values(
                band.name, np.arange(row, row + band.pixels).astype(int),
                np.arange(column, column + band.pixels).astype(int),
            )  # fmt: skip
            assert pixels.bands[c].dtype == product.dtype
            assert np.array_equal(pixels.bands[c], np.where(inside, values, MISSING[name]))
            if c in [grid.channels[0] for grid in product.grids]:
                missing += int((~inside).sum())
        assert pixels.missing == missing


def test_holes_are_counted(server):
    service = opened(server, policy=RetryPolicy())  # a year's scenes take the server a while
    lon, lat = PLACES["Munich"]
    product = PRODUCTS["s2c"]
    everything = [Window(start=SPRING.start, end=SPRING.start + timedelta(days=365))]
    for scene in service.scenes(product, lon=lon, lat=lat, windows=everything):
        hole = server.catalog.named(scene.id).hole
        if hole is None:
            continue
        (y,) = transform("EPSG:4326", f"EPSG:{scene.epsg}", [lon], [lat])[1]
        metres_down = hole[0] * 10 - (scene.top - y)  # move there, or it would be seen by chance
        lat_there = lat - metres_down / 111_200
        box = box_around(scene, lon=lon, lat=lat_there)
        first = (scene.top - box.top) // 10
        rows = np.arange(first, first + 264)
        holes = int(((rows >= hole[0]) & (rows < hole[1])).sum())
        pixels = service.pixels(scene, box)
        assert 0 < holes < 264
        assert (pixels.bands[1] == MISSING["s2c"]).sum() == holes * 264
        assert pixels.missing >= holes * 264
        return
    pytest.fail("no scene has a hole")


def test_collections_are_harmonized_unless_told(server):
    lon, lat = PLACES["Munich"]
    for harmonized, ending in [(True, "_HARMONIZED"), (False, "S2")]:
        service = opened(server, harmonized=harmonized)
        found = service.scenes(PRODUCTS["s2c"], lon=lon, lat=lat, windows=[SPRING])
        assert all(scene.id.split("/")[1].endswith(ending) for scene in found)
        assert all(
            (scene.properties["offset_convention"] == LEVELLED) == harmonized for scene in found
        )


@pytest.mark.parametrize("fault", [429, 500, 502, 503, 504, "cut", "stall", "drops", "quota"])
@pytest.mark.parametrize("kind", ["value", "pixels"])
def test_what_passes_is_survived_and_counted(server, fault, kind):
    lon, lat = PLACES["Munich"]
    product, service = PRODUCTS["s1"], opened(server)
    scene = service.scenes(product, lon=lon, lat=lat, windows=[SPRING])[0]
    box = box_around(scene, lon=lon, lat=lat)
    expected = service.pixels(scene, box)
    retries, requests = service.counters.retries, service.counters.requests
    server.faults += [fault, fault]
    if kind == "value":
        assert service.scenes(product, lon=lon, lat=lat, windows=[SPRING])[0] == scene
    else:
        again = service.pixels(scene, box)
        assert np.array_equal(again.bands[0], expected.bands[0])
    assert service.counters.retries - retries == 2
    assert service.counters.requests - requests == 3


def test_what_stays_is_told_with_its_name(server):
    lon, lat = PLACES["Munich"]
    product, service = PRODUCTS["s1"], opened(server)
    scene = service.scenes(product, lon=lon, lat=lat, windows=[SPRING])[0]
    box = box_around(scene, lon=lon, lat=lat)
    server.faults += [429] * 1000
    with pytest.raises(
        ServiceError, match=rf"{scene.name}.*gave up after .*Too many concurrent.*--concurrency"
    ):
        service.pixels(scene, box)
    with pytest.raises(ServiceError, match=r"images of s1 at 11.57550, 48.13740.*gave up"):
        service.scenes(product, lon=lon, lat=lat, windows=[SPRING])
    server.faults[:] = [403]
    asked = server.asked["pixels"]
    with pytest.raises(ServiceError, match=rf"{scene.name}.*Try again later"):
        service.pixels(scene, box)
    assert server.asked["pixels"] == asked + 1, "what is refused is not asked for again"


def test_a_scene_that_is_gone(server):
    lon, lat = PLACES["Munich"]
    service = opened(server)
    scene = service.scenes(PRODUCTS["s1"], lon=lon, lat=lat, windows=[SPRING])[0]
    gone = type(scene)(**{**vars(scene), "id": scene.id.replace("_2021", "_2016")})
    with pytest.raises(ServiceError, match=r"not found \(does not exist"):
        service.pixels(gone, box_around(scene, lon=lon, lat=lat))


def test_an_answer_of_another_place_is_refused(server):
    lon, lat = PLACES["Munich"]
    service = opened(server)
    scene = service.scenes(PRODUCTS["s1"], lon=lon, lat=lat, windows=[SPRING])[0]
    server.shift = 3.0
    with pytest.raises(ServiceError, match=r"asked for .* Earth Engine answered with"):
        service.pixels(scene, box_around(scene, lon=lon, lat=lat))


def test_threads_share_a_service(server):
    lon, lat = PLACES["Munich"]
    product, service = PRODUCTS["s2c"], opened(server)
    scenes = service.scenes(product, lon=lon, lat=lat, windows=[SPRING, AUTUMN])

    def fetch(scene):
        return service.pixels(scene, box_around(scene, lon=lon, lat=lat))

    alone = [fetch(scene) for scene in scenes]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(fetch, scenes * 3))
    for i, pixels in enumerate(together):
        for ours, theirs in zip(pixels.bands, alone[i % len(scenes)].bands, strict=True):
            assert np.array_equal(ours, theirs)


def test_who_is_not_signed_in_is_told_how(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(ServiceError, match="earthengine authenticate"):
        EarthEngine(project="test", url=server.url, policy=QUICK)
    (tmp_path / "key.json").write_text("{}")
    with pytest.raises(ServiceError, match=r"--service-account KEY\.json"):
        EarthEngine(service_account_key=tmp_path / "key.json", url=server.url, policy=QUICK)


def test_nobody_at_home():
    with pytest.raises(ServiceError, match=r"can't be used: .*gave up after"):
        EarthEngine(
            credentials=AnonymousCredentials(), project="test", url="http://127.0.0.1:9",
            policy=QUICK,
        )  # fmt: skip


def test_a_service_that_is_stopped_loses_patience(server):
    lon, lat = PLACES["Munich"]
    patient = RetryPolicy(first_wait_seconds=30.0, longest_wait_seconds=30.0)
    service = opened(server, policy=patient)
    server.faults += [503] * 100
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.scenes, PRODUCTS["s1"], lon=lon, lat=lat, windows=[SPRING])
        while service.counters.retries == 0:
            time.sleep(0.01)
        service.stop()
        with pytest.raises(ServiceError, match="gave up"):
            asked.result(timeout=10)


@pytest.mark.parametrize("name", PRODUCTS)
def test_metadata_has_what_the_scene_has_of_the_paper_s_tables(server, name):
    lon, lat = PLACES["Munich"]
    service = opened(server)
    scene = service.scenes(PRODUCTS[name], lon=lon, lat=lat, windows=[SPRING])[0]
    box = box_around(scene, lon=lon, lat=lat)
    taken = Taken(scene=scene, box=box, pixels=service.pixels(scene, box))
    files = files_of(taken, place=Place(id=7, lon=lon, lat=lat), source=service.name)
    said = json.loads(files["metadata.json"])
    wanted = {"s1": (*S1_NUMBERS, *S1_TEXTS), "s2c": (*S2_NUMBERS, *S2_TEXTS),
              "s2a": (*S2_NUMBERS, *S2_TEXTS, *S2A_NUMBERS)}[name]  # fmt: skip
    told = server.catalog.named(scene.id).properties()
    assert {key: said[key] for key in wanted} == {key: told[key] for key in wanted}
    assert said["source"] == "earthengine"
    assert (said["lon"], said["lat"]) == (lon, lat)


def test_real_pixels_come_as_they_are(real_data):
    product, (lon, lat) = PRODUCTS["s2c"], PLACES["Munich"]
    folder = next((real_data / "ssl4eo" / "genuine" / "s2c" / "0000200").iterdir())
    real = {}
    for band in product.names:
        with rasterio.open(folder / f"{band}.tif") as file:
            real[band] = file.read(1)
    with earth_engine(real=real) as server:
        service = opened(server)
        scene = service.scenes(product, lon=lon, lat=lat, windows=[SPRING])[0]
        box = box_around(scene, lon=lon, lat=lat)
        pixels = service.pixels(scene, box)
    for band, patch in zip(product.bands, pixels.bands, strict=True):
        side = band.pixels
        row = int(scene.top - box.top) // band.resolution_metres
        column = int(box.left - scene.left) // band.resolution_metres
        wanted = np.roll(real[band.name], (-row % side, -column % side), axis=(0, 1))
        assert np.array_equal(patch, wanted)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(-179.9, 179.9), st.floats(-79.0, 83.5), st.sampled_from([-1, 0, 1]),
    st.floats(0.0, 60.0), st.floats(0.0, 60.0), st.sampled_from(["s1", "s2c"]),
)  # fmt: skip
def test_the_outline_holds_the_patch_on_any_grid(lon, lat, zone, left, top, name):
    number = int((lon + 180) // 6) % 60 + 1 + zone
    middle = 6 * number - 183
    reach = 3 + np.degrees(110_000 / (6.37e6 * np.cos(np.radians(lat))))
    assume(abs(lon - middle) <= reach)  # no tile of that zone is farther out
    assume(1 <= number <= 60)
    epsg = (32700 if lat < 0 else 32600) + number
    (x,), (y,) = transform("EPSG:4326", f"EPSG:{epsg}", [lon], [lat])[:2]
    scene = Scene(
        product=name, id="", name="", time=SPRING.start, cloud_percent=None, datatake=None,
        ascending=None, epsg=epsg, left=x - 50_000 + left, top=y + 50_000 + top, properties={},
    )  # fmt: skip
    box = box_around(scene, lon=lon, lat=lat)
    xs = [box.left + step for step in (0, 1320, 2640) for _ in range(3)]
    ys = [box.top - step for _ in range(3) for step in (0, 1320, 2640)]
    lons, lats = transform(f"EPSG:{epsg}", "EPSG:4326", xs, ys)[:2]
    (west, south), _, (east, north), *_ = patch_outline(lon=lon, lat=lat)
    turned = (np.array(lons) - lon + 180) % 360 - 180 + lon  # over the date line
    assert west < turned.min()
    assert turned.max() < east
    assert south < min(lats)
    assert max(lats) < north


def test_windows_without_images(server):
    service, (lon, lat) = opened(server), PLACES["Munich"]
    long_ago = Window(start=datetime(2014, 1, 1, tzinfo=UTC), end=datetime(2014, 2, 1, tzinfo=UTC))
    assert service.scenes(PRODUCTS["s1"], lon=lon, lat=lat, windows=[long_ago]) == []


@pytest.mark.parametrize("name", ["system:footprint", "system:index", "system:time_start"])
def test_an_image_that_is_told_of_in_part(server, name):
    service, (lon, lat) = opened(server), PLACES["Munich"]
    server.omitted = name
    with pytest.raises(ServiceError, match=f"without what it has to have: .*{name}"):
        service.scenes(PRODUCTS["s2c"], lon=lon, lat=lat, windows=[SPRING])
