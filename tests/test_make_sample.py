"""The invented sample: true to the published layout, the sensors' orbits and the statistics."""

import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
import rasterio
import simplejpeg
import tifffile
from make_sample import MARKER, Settings, is_complete, main, write_sample
from sample_acquisitions import (
    FIRST,
    LAST,
    SENTINEL1,
    SENTINEL2,
    find_place,
    mgrs_square,
    overpasses,
    plan_dates,
    sun_zenith,
)
from sample_scene import (
    CLOUD,
    ENL,
    NOISE_EXPONENT,
    PATH,
    SIZE,
    SPECTRA,
    TRANSMISSION,
    cover,
    make_scene,
    make_sky,
    power_law_noise,
    sentinel1,
    sentinel2,
    spread,
    voronoi,
)

from ssl4eo_stream.bands import PRODUCTS, S2A, S2C
from ssl4eo_stream.shard.source import read_location, read_patch

LOCATIONS, DATES = 6, 4
S2_NAME = re.compile(r"(\d{8}T\d{6})_(\d{8}T\d{6})_T(\d{2}[A-Z]{3})")
S1_NAME = re.compile(
    r"S1([AB])_IW_GRDH_1SDV_(\d{8}T\d{6})_(\d{8}T\d{6})_(\d{6})_([0-9A-F]{6})_[0-9A-F]{4}"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "tree"
    assert write_sample(folder, locations=LOCATIONS, dates=DATES)
    return folder


def acquisitions(tree, product):
    """(location, folder, metadata) of all acquisitions of a product."""
    for folder in sorted((tree / product).glob("*/*")):
        yield int(folder.parent.name), folder, json.loads((folder / "metadata.json").read_text())


def hashes(tree):
    return {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tree.rglob("*")
        if path.is_file() and path.name != MARKER
    }


def utc(text):
    return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)


def parse_time(product, name):
    return utc((S1_NAME if product == "s1" else S2_NAME).fullmatch(name)[2])


# Arrays


def test_noise_falls_with_frequency_as_the_power_says():
    fields = power_law_noise(np.random.default_rng(1), count=8)
    assert fields.mean((1, 2)) == pytest.approx(np.zeros(8), abs=1e-12)
    assert fields.std((1, 2)) == pytest.approx(np.ones(8))
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(0)
    steps = np.fft.fftfreq(SIZE) * SIZE
    ring = np.rint(np.hypot(steps[:, None], steps[None])).astype(int).ravel()
    radial = np.bincount(ring, power.ravel()) / np.bincount(ring)
    rings = np.arange(2, SIZE // 2)
    slope, _ = np.polyfit(np.log(rings), np.log(radial[rings]), 1)
    assert slope == pytest.approx(-NOISE_EXPONENT, abs=0.05)


def test_fields_are_nearest_seeds():
    rng = np.random.default_rng(0)
    seeds = rng.uniform(0, 20, (9, 2))
    v, u = np.mgrid[:20, :20].astype(float)
    for row, column in rng.integers(0, 20, (40, 2)):
        distances = np.abs(seeds - [column, row]).max(axis=1)
        assert voronoi(u, v, seeds=seeds)[row, column] == distances.argmin()


@pytest.mark.parametrize("count", [10, 16, 64])
def test_any_run_of_the_spread_sequence_is_balanced(count):
    for start in (0, 5, 123):
        numbers = np.sort([spread(seed=3, index=start + i, salt=1) for i in range(count)])
        assert np.abs(numbers - (np.arange(count) + 0.5) / count).max() < 1.5 / count


@pytest.mark.parametrize("day", [10, 200])
def test_shares_of_a_pixel_add_up_to_one(day):
    shares = cover(make_scene(seed=0, location=5, north=True), day=day)
    assert shares.shape == (4, SIZE, SIZE)
    assert shares.min() >= -1e-12
    assert shares.sum(0) == pytest.approx(np.ones((SIZE, SIZE)))


@pytest.mark.parametrize(("north", "green", "bare"), [(True, 196, 14), (False, 14, 196)])
def test_seasons_move_fields_between_vegetation_and_soil(north, green, bare):
    scenes = [make_scene(seed=0, location=location, north=north) for location in range(5)]
    changes = [cover(scene, day=green) - cover(scene, day=bare) for scene in scenes]
    assert np.mean([change[0].mean() for change in changes]) > 0.08
    scene, change = scenes[4], changes[4]
    assert change[0] == pytest.approx(-change[1], abs=1e-9)
    assert np.abs(change[2:]).max() == 0
    per_field = [change[0][scene.segments == field].mean() for field in np.unique(scene.segments)]
    assert np.std(per_field) > 0.05  # each has its own phase


def test_all_bands_show_the_same_ground():
    """Every band against the mixture computed pixel by pixel on the 10 m grid and then averaged."""
    scene = make_scene(seed=0, location=1, north=True)
    skies = [make_sky(seed=0, location=1, date=date) for date in range(20)]
    sky = max(skies, key=lambda one: one.cloud.mean())
    bands = sentinel2(scene, sky=sky, day=100, rng=np.random.default_rng(0))["s2c"]
    shares = cover(scene, day=100) * scene.brightness * sky.shade
    assert sky.cloud.max() > 0.5
    for name, values in zip(S2C.names, bands, strict=True):
        if name == "B10":
            continue
        channel = S2C.names.index(name)
        clear = 1 - np.minimum(sky.cloud, 1)
        ground = sum(share * SPECTRA[i, channel] for i, share in enumerate(shares))
        through = TRANSMISSION[channel] * (ground * clear + sky.glint)
        fine = through + PATH[channel] * sky.haze * clear + CLOUD[channel] * sky.cloud
        n = len(values)
        expected = fine.reshape(n, SIZE // n, n, SIZE // n).mean((1, 3))
        assert np.abs(values - expected).max() < 75  # noise: 6 standard deviations
        assert np.abs(values - np.roll(expected, 1, axis=1)).max() > 500  # what a shift would do


def test_levels_differ_by_the_atmosphere_alone():
    scene, sky = make_scene(seed=0, location=4, north=True), make_sky(seed=0, location=4, date=1)
    image = sentinel2(scene, sky=sky, day=50, rng=np.random.default_rng(0))
    for name, corrected in zip(S2A.names, image["s2a"], strict=True):
        channel = S2C.names.index(name)
        top = image["s2c"][channel].astype(float)
        ground = (top - PATH[channel] * sky.haze) / TRANSMISSION[channel]
        error = np.abs(corrected - np.maximum(ground, 1))
        assert error.max() <= 0.5 + 0.5 / TRANSMISSION[channel] + 1e-6


def test_speckle_has_the_sensors_looks_and_correlation():
    scene = make_scene(seed=0, location=0, north=True)
    flat = replace(
        scene,
        water=np.ones((SIZE, SIZE)),
        built=np.zeros((SIZE, SIZE)),
        roughness=np.ones_like(scene.roughness),
        texture=np.zeros_like(scene.texture),
    )
    vv, vh = sentinel1(flat, day=100, rng=np.random.default_rng(0))
    assert vv.dtype == vh.dtype == np.float32
    for band, level in ((vv, -22.5), (vh, -30.0)):
        power = 10 ** (band.astype(float) / 10)
        assert 10 * np.log10(power.mean()) == pytest.approx(level, abs=0.7)
        assert power.mean() ** 2 / power.var() == pytest.approx(ENL, rel=0.05)
        error = power - power.mean()
        assert (error[1:] * error[:-1]).mean() / power.var() == pytest.approx(2 / 3, abs=0.03)


# Places and dates


@pytest.mark.parametrize(
    ("lon", "lat", "tile"),
    [(73.3057, 30.4641, "43RCP"), (15.6402, 38.0735, "33SWC"), (-46.63, -23.55, "23KLP")],
)
def test_mgrs_squares(lon, lat, tile):
    assert mgrs_square(lon, lat) == tile


@pytest.mark.parametrize(
    ("tracks", "lon", "time", "platform", "orbit"),
    [  # published acquisitions of a place in Pakistan
        (SENTINEL2, 73.3, "20200604T054639", "B", 16948),
        (SENTINEL2, 73.3, "20200823T054639", "B", 18092),
        (SENTINEL1[0], 73.3, "20200607T010800", "A", 32904),
        (SENTINEL1[1], 73.3, "20200903T131212", "A", 34195),
    ],
)
def test_overpasses_hold_published_ones(tracks, lon, time, platform, orbit):
    found = overpasses(tracks, lon=lon, around=utc(time) + timedelta(days=3))
    near = [one for one in found if one.orbit == orbit and one.track.platform == platform]
    assert len(near) == 1
    assert abs(near[0].time - utc(time)) < timedelta(minutes=15)


@pytest.mark.parametrize("lon", [-179.0, -74.0, 0.0, 51.4, 151.2])
@pytest.mark.parametrize(("tracks", "gap"), [(SENTINEL2, 5), (SENTINEL1[0], 6)])
def test_twin_satellites_alternate(lon, tracks, gap):
    around = datetime(2021, 3, 3, 12, tzinfo=UTC)
    found = overpasses(tracks, lon=lon, around=around)
    times = [one.time for one in found]
    assert len(found) in (30 // gap, 30 // gap + 1)
    for one, other in pairwise(found):
        assert abs(other.time - one.time - timedelta(days=gap)) < timedelta(minutes=15)
        assert one.track.platform != other.track.platform
        assert one.relative_orbit == other.relative_orbit
    for time in times:
        local = (time.hour + time.minute / 60 + lon / 15) % 24
        assert local == pytest.approx(tracks[0].local_hour, abs=0.25)
    # The agencies' formulas for relative orbits.
    shift = {(5, "A"): -2, (5, "B"): 27, (6, "A"): 73, (6, "B"): 27}
    for one in found:
        cycle = one.track.cycle_orbits
        expected = (one.orbit - shift[gap, one.track.platform]) % cycle + 1
        assert one.relative_orbit == expected


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_dates_stay_in_the_published_span(count):
    phases = []
    for location in range(30):
        place = find_place(seed=2, location=location)
        plan = plan_dates(seed=2, location=location, place=place, count=count)
        assert len(plan) == count
        for radar, optical in plan:
            assert FIRST <= radar.time <= LAST
            assert FIRST <= optical.time <= LAST
            assert radar.time.date() != optical.time.date()
        times = [optical.time for _, optical in plan]
        gaps = [(b - a).days for a, b in pairwise(times)]
        assert all(58 <= gap <= 123 for gap in gaps)
        phases.append((times[0] - FIRST).days)
    assert max(phases) - min(phases) > 60


def test_sun_stands_as_published():
    """Zenith angles of two published images."""
    for time, zenith in (("20200604T054831", 16.21), ("20200823T055618", 24.65)):
        assert sun_zenith(lat=30.46, time=utc(time), hour=10.65) == pytest.approx(zenith, abs=5)


# The tree


def test_tree_is_laid_out_as_published(tree):
    for name, product in PRODUCTS.items():
        folders = list(acquisitions(tree, name))
        assert len(folders) == LOCATIONS * DATES
        pattern = S1_NAME if name == "s1" else S2_NAME
        for _, folder, _ in folders:
            assert pattern.fullmatch(folder.name)
            files = {f"{band}.tif" for band in product.names} | {"metadata.json"}
            assert {path.name for path in folder.iterdir()} == files
    assert [path.name for path in sorted((tree / "s2c").iterdir())] == [
        f"{location:07d}" for location in range(LOCATIONS)
    ]


def test_files_have_the_published_tags(tree):
    for name, product in PRODUCTS.items():
        _, folder, _ = next(acquisitions(tree, name))
        for band in product.bands:
            with tifffile.TiffFile(folder / f"{band.name}.tif") as file:
                (page,) = file.pages
                assert page.shape == (band.pixels, band.pixels)
                assert page.dtype == product.dtype
                assert page.compression == 1
                assert {33550, 33922, 34735, 34736, 34737} <= {tag.code for tag in page.tags}
                rows = {("uint16", 264): 15, ("uint16", 132): 31, ("uint16", 44): 44,
                        ("float32", 264): 7}[product.dtype, band.pixels]  # fmt: skip
                assert page.rowsperstrip == rows


def test_all_grids_of_a_location_share_their_corners(tree):
    for location in range(LOCATIONS):
        place = find_place(seed=0, location=location)
        bounds = []
        for path in tree.glob(f"*/{location:07d}/*/B*.tif"):
            with rasterio.open(path) as source:
                assert source.crs.to_epsg() == 4326
                bounds.append(source.bounds)
        assert np.ptp(np.array(bounds), axis=0).max() < 1e-9
        left, bottom, right, top = bounds[0]
        assert ((left + right) / 2, (bottom + top) / 2) == pytest.approx((place.lon, place.lat))
        across = (right - left) * np.cos(np.radians(place.lat)) * 111_320
        assert across == pytest.approx(2640, rel=0.005)
        assert (top - bottom) * 111_320 == pytest.approx(2640, rel=0.01)


def test_metadata_agrees_with_the_name(tree):
    for name in ("s2a", "s2c"):
        for _, folder, fields in acquisitions(tree, name):
            start, sensed, tile = S2_NAME.fullmatch(folder.name).groups()
            assert fields["synthetic"] is True
            assert fields["system:index"] == folder.name
            assert fields["system:time_start"] == utc(sensed).timestamp() * 1000
            assert fields["MGRS_TILE"] == tile
            assert 0 <= fields["CLOUDY_PIXEL_PERCENTAGE"] < 10
            satellite = {"Sentinel-2A": "S2A", "Sentinel-2B": "S2B"}[fields["SPACECRAFT_NAME"]]
            assert fields["DATATAKE_IDENTIFIER"].startswith(f"G{satellite}_{start}_")
            assert fields["PRODUCT_ID"].startswith(f"{satellite}_MSI")
            assert f"_R{fields['SENSING_ORBIT_NUMBER']:03d}_T{tile}_" in fields["PRODUCT_ID"]
    for _, folder, fields in acquisitions(tree, "s1"):
        platform, start, stop, orbit, take = S1_NAME.fullmatch(folder.name).groups()
        assert fields["synthetic"] is True
        assert fields["platform_number"] == platform
        assert fields["orbitNumber_start"] == int(orbit)
        assert fields["missionDataTakeID"] == int(take, 16)
        assert utc(stop) - utc(start) == timedelta(seconds=25)
        assert fields["system:time_start"] == utc(start).timestamp() * 1000
        assert fields["orbitProperties_pass"] in ("ASCENDING", "DESCENDING")


def test_products_share_datatakes_but_not_days(tree):
    unsorted_names = 0
    for location in range(LOCATIONS):
        names = {
            name: sorted(path.name for path in (tree / name / f"{location:07d}").iterdir())
            for name in PRODUCTS
        }
        assert names["s2a"] == names["s2c"]
        days = {
            name: {parse_time(name, one).date() for one in names[name]} for name in ("s1", "s2c")
        }
        assert not days["s1"] & days["s2c"]
        times = [parse_time("s1", one) for one in names["s1"]]
        unsorted_names += times != sorted(times)
    assert unsorted_names > 0


def test_the_packer_reads_it(tree):
    for name, product in PRODUCTS.items():
        location = read_location(tree / name / "0000002", product=product)
        place = find_place(seed=0, location=2)
        assert (location.lon, location.lat) == pytest.approx((place.lon, place.lat), abs=1e-6)
        times = [acquisition.time for acquisition in location.acquisitions]
        assert times == sorted(times)
        patch = read_patch(location.acquisitions[0], product=product)
        assert [band.shape[0] for band in patch.bands] == [band.pixels for band in product.bands]


def test_dates_of_a_location_are_co_registered(tree):
    """Built ground keeps its edges: dates correlate best without a shift."""
    for location in range(LOCATIONS):
        red = [
            tifffile.imread(path).astype(float)
            for path in sorted(tree.glob(f"s2c/{location:07d}/*/B4.tif"))
        ]
        edges = [np.clip(np.abs(np.diff(image, axis=1)), 0, 300) for image in red]
        first = edges[0].ravel()
        for other in edges[1:]:
            scores = [
                np.corrcoef(first, np.roll(other, shift, axis=1).ravel())[0, 1]
                for shift in (-1, 0, 1)
            ]
            assert np.argmax(scores) == 1


# Writing


def test_same_bytes_for_any_number_of_workers_products_and_neighbours(tree, tmp_path):
    all_products = hashes(tree)
    assert len(all_products) == Settings(locations=LOCATIONS, dates=DATES).num_files
    write_sample(tmp_path / "two", locations=2, workers=2, products=("s2c", "s1"))
    expected = {
        name: value
        for name, value in all_products.items()
        if name.startswith(("s1/000000", "s2c/000000")) and int(name.split("/")[1]) < 2
    }
    assert hashes(tmp_path / "two") == expected
    write_sample(tmp_path / "seed", locations=1, seed=1, products=("s2c",))
    assert not set(hashes(tmp_path / "seed").values()) & set(all_products.values())


def test_pixel_bytes_are_counted(tree):
    settings = Settings(locations=LOCATIONS, dates=DATES)
    written = sum(path.stat().st_size for path in tree.rglob("*.tif"))
    assert settings.num_bytes < written < 1.02 * settings.num_bytes


def test_a_complete_sample_is_kept_and_a_cut_one_made_again(tmp_path, capsys):
    dest = tmp_path / "tree"
    arguments = [str(dest), "--locations", "1", "--dates", "1", "--products", "s1"]
    assert main([*arguments, "--dry-run"]) == 0
    assert "would write" in capsys.readouterr().out
    assert not dest.exists()
    assert main([*arguments, "--workers", "1"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    (band,) = dest.glob("s1/*/*/VV.tif")
    first, written = hashes(dest), band.stat().st_mtime_ns
    assert main(arguments) == 0
    assert "is complete" in capsys.readouterr().out
    assert band.stat().st_mtime_ns == written
    marker = json.loads((dest / MARKER).read_text())
    (dest / MARKER).write_text(json.dumps({**marker, "complete": False}))
    band.write_bytes(b"cut")
    assert write_sample(dest, locations=1, dates=1, products=("s1",))
    assert hashes(dest) == first


def test_other_folders_are_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert main([str(tmp_path / "mine"), "--locations", "1"]) == 2
    assert "is not empty and holds no sample.json" in capsys.readouterr().err
    write_sample(tmp_path / "tree", locations=1, dates=1, products=("s1",))
    with pytest.raises(FileExistsError, match="holds another sample"):
        write_sample(tmp_path / "tree", locations=1, dates=2, products=("s1",))
    assert not is_complete(tmp_path / "none", settings=Settings())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("wrong", [{"locations": 0}, {"dates": 0}, {"dates": 8}, {"products": ()}])
def test_settings_out_of_range_are_named(wrong, tmp_path):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        write_sample(tmp_path / "tree", **wrong)
    assert not (tmp_path / "tree").exists()


# Statistics


@pytest.mark.slow
def test_statistics_are_those_of_the_data_set():
    """64 locations × 4 dates: band means within 10 %, deviations of the same order, some glare."""
    sums = {name: [] for name in PRODUCTS}
    brightest = []
    for location in range(64):
        place = find_place(seed=0, location=location)
        scene = make_scene(seed=0, location=location, north=place.lat > 0)
        plan = plan_dates(seed=0, location=location, place=place, count=4)
        for date, (radar, optical) in enumerate(plan):
            rng = np.random.default_rng([location, date])
            sky = make_sky(seed=0, location=location, date=date)
            images = sentinel2(scene, sky=sky, day=optical.time.timetuple().tm_yday, rng=rng)
            day = radar.time.timetuple().tm_yday
            for name, bands in (*images.items(), ("s1", sentinel1(scene, day=day, rng=rng))):
                values = [band.astype(float) for band in bands]
                sums[name].append([(band.mean(), (band**2).mean()) for band in values])
            brightest.append(max(int(band.max()) for band in images["s2c"]))
    for name, product in PRODUCTS.items():
        mean, square = np.mean(sums[name], axis=0).T
        deviation = np.sqrt(square - mean**2)
        for band, value, spread_ in zip(product.bands, mean, deviation, strict=True):
            assert value == pytest.approx(band.mean, rel=0.1), (name, band.name)
            assert 0.5 < spread_ / band.std < 1.3, (name, band.name)
    assert np.mean(np.array(brightest) > 10_000) > 0.5


def test_patches_compress_like_real_ones(tmp_path):
    """JPEG at quality 75, each band at its native size; 96 real patches of towns: 50.1 kB."""
    write_sample(tmp_path / "tree", locations=16, products=("s2c",))
    sizes = []
    for _, folder, _ in acquisitions(tmp_path / "tree", "s2c"):
        size = 0
        for band in S2C.bands:
            values = tifffile.imread(folder / f"{band.name}.tif") / band.scale
            image = np.clip(np.rint(values), 0, 255).astype(np.uint8)[..., None]
            size += len(simplejpeg.encode_jpeg(np.ascontiguousarray(image), 75, "GRAY"))
        sizes.append(size)
    assert np.mean(sizes) == pytest.approx(50_100, rel=0.35)
