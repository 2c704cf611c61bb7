"""Images from a STAC catalogue on loopback, read by the real clients."""

from datetime import timedelta

import numpy as np
import pytest
from rasterio.warp import transform
from shapely import Polygon

from ssl4eo_stream.bands import S1, S2A, S2C
from ssl4eo_stream.collect.scene import MISSING, Window, box_around
from ssl4eo_stream.collect.stac import StacCatalogue
from ssl4eo_stream.errors import ServiceError
from tests.stac_server import SIDE_METRES, days, stac_server

PLACES = {"north": (32632, 600_000, 5_200_020), "south": (32733, 399_960, 6_300_000)}
ALL_JUNE = [Window(start=days(0), end=days(30))]


@pytest.fixture
def catalogue(tmp_path):
    with stac_server(tmp_path) as server:
        yield server


def opened(catalogue, **options):
    return StacCatalogue(catalogue.url, timeout_seconds=5.0, backoff_seconds=0.01, **options)


def middle(epsg, left, top):
    """A place near the middle of a scene, on no pixel's edge."""
    x, y = left + SIDE_METRES / 2 + 17.3, top - SIDE_METRES / 2 - 3.8
    (lon,), (lat,) = transform(f"EPSG:{epsg}", "EPSG:4326", [x], [y])[:2]
    return lon, lat


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("common_names", [False, True])
def test_a_patch_is_the_scene_s_own_pixels(catalogue, where, common_names):
    epsg, left, top = PLACES[where]
    name = catalogue.add(
        S2A, time=days(3), epsg=epsg, left=left, top=top, common_names=common_names
    )
    lon, lat = middle(epsg, left, top)
    service = opened(catalogue)
    (scene,) = service.scenes(S2A, lon=lon, lat=lat, windows=ALL_JUNE)
    assert (scene.name, scene.epsg, scene.left, scene.top) == (name, epsg, left, top)
    assert (scene.cloud_percent, scene.time) == (3.25, days(3))
    assert scene.datatake == "GS2B_20200604T103000_016948"
    assert scene.properties["MGRS_TILE"] == "32TPT"
    box = box_around(scene, lon=lon, lat=lat)
    pixels = service.pixels(scene, box)
    assert pixels.missing == 0
    for c, band in enumerate(S2A.bands):
        metres = band.resolution_metres
        column, row = (box.left - left) / metres, (top - box.top) / metres
        assert column == int(column)
        assert row == int(row)
        window = catalogue.pixels(name, S2A, c)[int(row) :, int(column) :]
        assert pixels.bands[c].dtype == np.uint16
        assert np.array_equal(pixels.bands[c], window[: band.pixels, : band.pixels])


def test_sentinel_1_comes_in_decibels(catalogue):
    epsg, left, top = PLACES["north"]
    name = catalogue.add(S1, time=days(3), epsg=epsg, left=left + 7, top=top - 3)
    lon, lat = middle(epsg, left, top)
    service = opened(catalogue)
    (scene,) = service.scenes(S1, lon=lon, lat=lat, windows=ALL_JUNE)
    assert scene.ascending is False
    assert scene.properties["orbitProperties_pass"] == "DESCENDING"
    box = box_around(scene, lon=lon, lat=lat)
    pixels = service.pixels(scene, box)
    column, row = round((box.left - left - 7) / 10), round((top - 3 - box.top) / 10)
    for c in range(2):
        power = catalogue.pixels(name, S1, c)[row : row + 264, column : column + 264]
        assert pixels.bands[c].dtype == np.float32
        np.testing.assert_allclose(pixels.bands[c], 10 * np.log10(power), rtol=1e-6)


@pytest.mark.parametrize(
    ("baseline", "said", "shift"),
    [("03.01", {}, 0), ("04.00", {}, 1000), ("05.09", {}, 1000),
     ("05.09", {"earthsearch:boa_offset_applied": True}, 0)],
)  # fmt: skip
def test_the_offset_of_later_baselines_is_taken_off_once(catalogue, baseline, said, shift):
    epsg, left, top = PLACES["north"]
    name = catalogue.add(
        S2A, time=days(3), epsg=epsg, left=left, top=top, baseline=baseline, **said
    )
    lon, lat = middle(epsg, left, top)
    service = opened(catalogue)
    (scene,) = service.scenes(S2A, lon=lon, lat=lat, windows=ALL_JUNE)
    box = box_around(scene, lon=lon, lat=lat)
    band = service.pixels(scene, box).bands[1]
    column, row = int(box.left - left) // 10, int(top - box.top) // 10
    raw = catalogue.pixels(name, S2A, 1)[row : row + 264, column : column + 264].astype(int)
    assert np.array_equal(band, (raw - shift).clip(0))


def test_missing_pixels_are_counted_and_told_from_dark_ones(catalogue, tmp_path):
    import rasterio

    epsg, left, top = PLACES["north"]
    name = catalogue.add(S2A, time=days(3), epsg=epsg, left=left, top=top, baseline="05.09")
    lon, lat = middle(epsg, left, top)
    service = opened(catalogue)
    (scene,) = service.scenes(S2A, lon=lon, lat=lat, windows=ALL_JUNE)
    box = box_around(scene, lon=lon, lat=lat)
    column, row = int(box.left - left) // 10, int(top - box.top) // 10
    with rasterio.open(tmp_path / f"{name}-B3.tif", "r+") as file:
        values = file.read(1)
        values[row : row + 5, column : column + 4] = 0  # no data
        values[row + 9, column] = 900  # dark
        file.write(values, 1)
    pixels = service.pixels(scene, box)
    assert pixels.missing == 20
    assert (pixels.bands[2][:5, :4] == MISSING["s2a"]).all()
    assert pixels.bands[2][9, 0] == 0


def test_only_scenes_that_hold_the_whole_patch_in_their_window(catalogue):
    epsg, left, top = PLACES["north"]
    lon, lat = middle(epsg, left, top)
    whole = [catalogue.add(S2A, time=days(d), epsg=epsg, left=left, top=top) for d in (2, 9, 40)]
    half = Polygon([(lon - 1, lat - 1), (lon + 0.001, lat - 1), (lon + 0.001, lat + 1),
                    (lon - 1, lat + 1)])  # fmt: skip
    catalogue.add(S2A, time=days(5), epsg=epsg, left=left + 60, top=top, footprint=half)
    service = opened(catalogue)
    windows = [Window(start=days(0), end=days(2)), Window(start=days(2), end=days(9)),
               Window(start=days(9), end=days(9) + timedelta(seconds=1))]  # fmt: skip
    found = service.scenes(S2A, lon=lon, lat=lat, windows=windows)
    assert [scene.name for scene in found] == whole[:2]


def test_failures_that_pass_are_survived_and_others_told(catalogue):
    epsg, left, top = PLACES["north"]
    catalogue.add(S2A, time=days(3), epsg=epsg, left=left, top=top)
    lon, lat = middle(epsg, left, top)
    service = opened(catalogue)
    catalogue.failures += [503, 429]
    assert len(service.scenes(S2A, lon=lon, lat=lat, windows=ALL_JUNE)) == 1
    assert catalogue.searches == 3
    catalogue.failures += [503] * 20
    with pytest.raises(ServiceError, match="can't be looked for"):
        service.scenes(S2A, lon=lon, lat=lat, windows=ALL_JUNE)
    catalogue.failures[:] = [400]
    with pytest.raises(ServiceError, match="try later"):
        service.scenes(S2A, lon=lon, lat=lat, windows=ALL_JUNE)


def test_what_is_not_there_is_said(catalogue):
    service = opened(catalogue)
    with pytest.raises(ServiceError, match=r"no Sentinel-2 L1C on map grids.*Leave s2c out"):
        service.scenes(S2C, lon=1.0, lat=2.0, windows=ALL_JUNE)
    with pytest.raises(ServiceError, match="can't be opened as a STAC API"):
        StacCatalogue("http://127.0.0.1:9", timeout_seconds=1.0, backoff_seconds=0.01)


def test_a_grid_that_is_not_native_is_refused(catalogue):
    epsg, left, top = PLACES["north"]
    lon, lat = middle(epsg, left, top)
    catalogue.add(S1, time=days(3), epsg=epsg, left=left, top=top)
    for asset in catalogue.items[-1]["assets"].values():
        del asset["proj:transform"]
    with pytest.raises(ServiceError, match="is not on a map grid"):
        opened(catalogue).scenes(S1, lon=lon, lat=lat, windows=ALL_JUNE)


def test_a_service_that_is_stopped_asks_no_more(catalogue):
    service = opened(catalogue)
    service.stop()
    with pytest.raises(ServiceError, match="not asked any more"):
        service.scenes(S1, lon=1.0, lat=2.0, windows=ALL_JUNE)
    assert catalogue.searches == 0
