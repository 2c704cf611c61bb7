"""`ssl4eo-collect plan`: where locations lie, how far apart, and what it says of bad input."""

import csv
import gzip
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod
from scipy.spatial import cKDTree

from ssl4eo_stream.collect import locations
from ssl4eo_stream.collect.areas import land_area, read_area
from ssl4eo_stream.collect.candidates import around, over, read_points
from ssl4eo_stream.collect.cities import Cities, known_cities, read_cities
from ssl4eo_stream.collect.locations import plan
from ssl4eo_stream.collect.separation import Separation
from ssl4eo_stream.commands.collect import main
from ssl4eo_stream.errors import PlanError

LIMIT = 1980.0
GEOD = Geod(ellps="WGS84")
CITIES = "city,lat,lng,population\nHere,10.5,20,900\nThere,-40,179.9,1000\nNowhere,1,2,\n"


def haversine(lon, lat, others_lon, others_lat):
    lon, lat, others_lon, others_lat = map(np.radians, (lon, lat, others_lon, others_lat))
    a = np.sin((lat - others_lat) / 2) ** 2
    a = a + np.cos(lat) * np.cos(others_lat) * np.sin((lon - others_lon) / 2) ** 2
    return 2 * 6_371_008.8 * np.arcsin(np.sqrt(a))


def distances(lon, lat, others_lon, others_lat):
    """The shorter of the ways on ellipsoid and sphere: by other formulas than the package's."""
    others = np.full(len(others_lon), lon), np.full(len(others_lon), lat)
    _, _, ways = GEOD.inv(*others, np.array(others_lon), np.array(others_lat))
    return np.minimum(ways, haversine(lon, lat, np.array(others_lon), np.array(others_lat)))


def first_come(lon, lat, limit):
    """The rule written slowly: each against all that were admitted; and how close a call it was."""
    admitted, closest = [], math.inf
    for i in range(len(lon)):
        kept = np.flatnonzero(admitted)
        ways = distances(lon[i], lat[i], lon[kept], lat[kept]) if kept.size else np.array([np.inf])
        closest = min(closest, np.abs(ways - limit).min())
        admitted.append(bool((ways >= limit).all()))
    return np.array(admitted), closest


def pairs_within(lon, lat, limit):
    """How many pairs are nearer than a limit, by a k-d tree on the unit sphere."""
    lon, lat = np.radians(lon), np.radians(lat)
    places = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    return len(cKDTree(places).query_pairs(2 * np.sin(limit / 6_371_008.8 / 2)))


def take(source, n, **options):
    return plan(source, n=n, **({"min_separation_metres": LIMIT} | options))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "cities.csv"
    path.write_text(CITIES)
    return path


@pytest.mark.parametrize("lat", [0.0, 45.0, 65.0])
def test_offsets_have_the_deviation_on_the_ground_in_both_axes(lat):
    cities = Cities(names=["x"], lon=np.array([30.0]), lat=np.array([lat]))
    source = around(cities, sigma_metres=50_000.0, seed=0)
    blocks = [next(source) for _ in range(12)]
    # Metres by the radii of curvature at each place's latitude, not by a geodesic.
    angle = np.radians(np.concatenate([each.lat for each in blocks]))
    e2 = 0.00669437999014
    middle = (angle + math.radians(lat)) / 2
    root = np.sqrt(1 - e2 * np.sin(middle) ** 2)
    north = (angle - math.radians(lat)) * 6378137 * (1 - e2) / root**3
    # A way east leaves the parallel by its own curvature, which this lays flat to first order.
    turn = np.radians(np.concatenate([each.lon for each in blocks]) - 30.0)
    across = 6378137 / np.sqrt(1 - e2 * np.sin(angle) ** 2) * np.cos(angle)
    east = across * np.sin(turn)
    north = north + across * (1 - np.cos(turn)) * math.sin(math.radians(lat))
    for way in (east, north):
        assert abs(way.mean()) < 500
        assert way.std() == pytest.approx(50_000, rel=0.01)
    assert abs(np.corrcoef(east, north)[0, 1]) < 0.01


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=40),
    st.sampled_from([(0, 90), (77, -90), (180, 0), (-180, 65), (0, 0), (179.99, -84), (13, 51)]),
    st.sampled_from([500.0, 1980.0, 2640.0]),
)
@settings(max_examples=200, deadline=None)
def test_who_is_admitted_is_what_the_rule_says(offsets, centre, limit):
    east, north = np.array(offsets).T * 1000
    lon, lat, _ = GEOD.fwd(
        np.full(east.size, float(centre[0])), np.full(east.size, float(centre[1])),
        np.degrees(np.arctan2(east, north)), np.hypot(east, north),
    )  # fmt: skip
    lon, lat = np.asarray(lon), np.asarray(lat)
    expected, closest = first_come(lon, lat, limit)
    if closest < 1e-3:
        return  # a pair that rounding could decide either way
    separation = Separation(limit)
    middle = lon.size // 2  # in two blocks: what came before counts
    found = [
        separation.admit(lon[:middle], lat[:middle]),
        separation.admit(lon[middle:], lat[middle:]),
    ]
    assert np.concatenate(found).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((179.995, 10), (-179.995, 10)),
        ((180, 0), (-180, 0)),
        ((0, 89.995), (180, 89.995)),
        ((5, -90), (99, -90)),
        ((20.9999, 50), (21.0001, 50)),
        ((20.5, 0.9999), (20.5, 1.0001)),
        ((-70, 84), (-70.15, 84)),
    ],
)
def test_neighbours_over_an_edge_are_seen(one, other):
    lon, lat = np.array([one, other], dtype=np.float64).T
    assert Separation(LIMIT).admit(lon, lat).tolist() == [True, False]


@pytest.mark.parametrize("metres", [1.0, 1980.0, 100_000.0])
def test_a_limit_of_any_size_holds(metres):
    lon = np.array([10, 10, 10.0])
    lat = np.array([50, 50 + metres * 0.9 / 111_250, 50 + metres * 1.1 / 111_250])
    assert Separation(metres).admit(lon, lat).tolist() == [True, False, True]
    assert Separation(0.0).admit(lon * 0, lat * 0).all()


def test_a_plan_begins_every_longer_plan_and_no_pair_is_too_near():
    cities = Cities(
        names=["Suva", "Svalbard"], lon=np.array([179.9, 15.0]), lat=np.array([-18.0, 78.2])
    )
    short, long = (take(around(cities, sigma_metres=50_000.0, seed=3), n) for n in (1000, 6000))
    assert short.ids == list(range(1000))
    assert (short.lon == long.lon[:1000]).all()
    assert (short.lat == long.lat[:1000]).all()
    assert short.city == long.city[:1000]
    assert pairs_within(long.lon, long.lat, LIMIT) == 0
    assert pairs_within(long.lon, long.lat, LIMIT + 30) > 0
    assert long.candidates == 6000 + sum(long.refused.values())
    assert set(long.refused) == {"too near another"}
    assert (long.lon >= -180).all()
    assert (long.lon < 180).all()
    assert (long.lon < 0).any()
    other = take(around(cities, sigma_metres=50_000.0, seed=4), 1000)
    assert (other.lon != short.lon).any()


def test_the_most_populous_cities_are_drawn_alike(table):
    cities = read_cities(table, top=2)
    assert cities.names == ["There", "Here"]
    drawn = take(around(cities, sigma_metres=0.0, seed=0), 4000, min_separation_metres=0.0)
    assert drawn.city.count("Here") == pytest.approx(2000, abs=150)
    here = np.array([city == "Here" for city in drawn.city])
    assert set(drawn.lon[here]) == {20.0}
    assert set(drawn.lat[~here]) == {-40.0}
    with pytest.raises(PlanError, match="has 3 cities, fewer than --top 10000"):
        read_cities(table, top=10_000)


def test_the_table_that_is_brought_along_has_ten_thousand_cities():
    cities = known_cities(top=10_000)
    assert len(set(cities.names)) > 8500
    assert "Shanghai" in cities.names[:5]


def test_an_area_is_filled_evenly(tmp_path):
    """Twice the latitudes' sine, twice the places; holes and the gap between parts stay empty."""
    path = tmp_path / "area.geojson"
    square = [[0, 0], [20, 0], [20, 60], [0, 60], [0, 0]]
    hole = [[5, 5], [15, 5], [15, 20], [5, 20], [5, 5]]
    east = [[170, 0], [180, 0], [180, 10], [170, 10], [170, 0]]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square, hole]}},
        {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": [[east]]}},
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    made = take(over(read_area(path), seed=0), 20_000, min_separation_metres=0.0)

    def band(wide, low, high):
        return wide * (math.sin(math.radians(high)) - math.sin(math.radians(low)))

    west = made.lon <= 20
    parts = [
        (west & (made.lat < 30), band(20, 0, 30) - band(10, 5, 20)),
        (west & (made.lat >= 30), band(20, 30, 60)),
        ((made.lon >= 170) & (made.lat <= 10), band(10, 0, 10)),
    ]
    whole = sum(size for _, size in parts)
    for inside, size in parts:
        assert inside.mean() == pytest.approx(size / whole, abs=0.012)
    assert sum(inside.sum() for inside, _ in parts) == 20_000
    holed = (made.lon > 5) & (made.lon < 15) & (made.lat > 5) & (made.lat < 20)
    assert not holed.any()
    assert made.refused["outside the polygon"] > 0


def test_land_only_refuses_the_sea():
    cities = Cities(names=["Lisbon"], lon=np.array([-9.14]), lat=np.array([38.72]))
    made = take(around(cities, sigma_metres=100_000.0, seed=0), 300, land=land_area())
    assert made.refused["in the sea"] > 100
    assert land_area().holds(made.lon, made.lat).all()
    assert land_area().holds(np.array([2.35, -30]), np.array([48.86, 40])).tolist() == [True, False]
    assert (take(over(land_area(), seed=0), 2000).lat < -60).any()


def test_points_keep_their_ids_and_order(tmp_path):
    path = tmp_path / "points.csv.gz"
    text = 'id,lon,lat,city\n7,180,0,a\n3,-179.999,0,b\n9,1,1,"c, d"\n'
    path.write_bytes(gzip.compress(text.encode()))
    made = take(iter([read_points(path)]), None)
    assert made.ids == [7, 9]
    assert made.city == ["a", "c, d"]
    assert made.lon.tolist() == [-180, 1]
    assert made.refused == {"too near another": 1}
    with pytest.raises(PlanError, match="--n 3: only 2 locations were found among 3 candidates"):
        take(iter([read_points(path)]), 3)


def test_a_full_plan_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(locations, "PATIENCE", 20_000)
    town = read_area(square(tmp_path, 0, 0.02))
    with pytest.raises(PlanError, match=r"only \d locations were found .*too near another"):
        take(over(town, seed=0), 100)


def square(folder, low, high):
    path = folder / "square.geojson"
    ring = [[low, low], [high, low], [high, high], [low, high], [low, low]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CITIES.replace("10.5", "91"), "line 2, column lat: '91' is no number from -90 to 90"),
        (CITIES.replace("179.9", "east"), "line 3, column lng: 'east' is no number"),
        (CITIES.replace("900", "nan"), "line 2, column population: 'nan'"),
        (CITIES + "Short,3\n", "line 5, column lng: the line ends before it"),
        (CITIES.replace("lng", "lon"), "line 1: there is no column lng"),
        ("", "line 1: there is no column city"),
        (CITIES.replace("Here", '"Here'), "can't be read as a table"),
    ],
)
def test_a_bad_table_names_line_and_column(tmp_path, text, message):
    path = tmp_path / "cities.csv"
    path.write_text(text)
    with pytest.raises(PlanError, match=f"cities.csv.*{message}"):
        read_cities(path, top=1)


def test_a_table_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"city,lat\xff")
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(CITIES.encode())[:-9])
    for name in ("a.csv", "b.csv.gz", "c.csv"):
        with pytest.raises(PlanError, match=f"{name} can't be read as a table"):
            read_cities(tmp_path / name, top=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,lon,lat\n1,2,3\n1,4,5\n", "line 3, column id: 1 is the id of line 2 too"),
        ("id,lon,lat\n-1,2,3\n", "line 2, column id: '-1' is no whole number"),
        ("lon,lat\n", "has no locations below its header"),
        ("lon,lat\n181,0\n", "line 2, column lon: '181'"),
    ],
)
def test_bad_points_name_line_and_column(tmp_path, text, message):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(PlanError, match=f"points.csv.*{message}"):
        read_points(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "Polygon",\n "coordinates": [}', "line 2, column 18: no GeoJSON"),
        ('{"type": "Point", "coordinates": [1, 2]}', "has a Point where a Polygon"),
        ("[]", "has a list where"),
        ('{"type": "FeatureCollection", "features": []}', "has no polygon in it"),
        ('{"type": "Polygon"}', "geometry 1: its coordinates are wrong"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [190, 0], [190, 9], [0, 0]]]}',
         "geometry 1 goes from 0 to 190"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [9, 9], [9, 0], [0, 9], [0, 0]]]}',
         "geometry 1 is no valid polygon: Self-intersection"),
    ],
)  # fmt: skip
def test_a_bad_polygon_says_where(tmp_path, text, message):
    path = tmp_path / "area.geojson"
    path.write_text(text)
    with pytest.raises(PlanError, match=f"area.geojson.*{message}"):
        read_area(path)


def test_the_command_writes_the_same_bytes_again_and_says_what_it_did(table, tmp_path, capsys):
    flags = ["plan", "--cities", str(table), "--top", "2", "--n", "500"]
    for name in ("a", "b"):
        assert main([*flags, "--output", str(tmp_path / f"{name}.csv")]) == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert list(rows[0]) == ["id", "lon", "lat", "city"]
    assert [int(row["id"]) for row in rows] == list(range(500))
    line = capsys.readouterr().out.splitlines()[0]
    assert "locations 500, around 2 cities" in line
    assert "accepted (too near another" in line
    assert (
        main(["plan", "--points", str(tmp_path / "a.csv"), "--output", str(tmp_path / "c.csv")])
        == 0
    )
    assert (tmp_path / "c.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    area = square(tmp_path, 10, 11)
    flags = ["plan", "--polygon", str(area), "--n", "9", "--output", str(tmp_path / "d.csv")]
    assert main([*flags, "--dry-run"]) == 0
    assert "nothing written" in capsys.readouterr().out
    assert not (tmp_path / "d.csv").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--n is missing"),
        (["--n", "0"], "--n is 0"),
        (["--n", "1", "--seed", "-1"], "--seed is -1"),
        (["--n", "1", "--top", "0"], "--top is 0"),
        (["--n", "1", "--sigma-km", "nan"], "--sigma-km is nan"),
        (["--n", "1", "--min-separation", "-1"], "--min-separation is -1"),
        (["--n", "1", "--polygon", "land", "--points", "x.csv"], "--polygon and --points are"),
        (["--n", "1", "--map", "out.csv"], "--output and --map are both out.csv"),
    ],
)
def test_wrong_flags_are_named(flags, message, capsys):
    assert main(["plan", "--output", "out.csv", *flags]) == 2
    assert message in capsys.readouterr().err


def test_errors_end_with_a_line_and_code_one(table, tmp_path, capsys):
    flags = ["plan", "--n", "5", "--cities", str(table), "--top", "2"]
    assert main([*flags, "--output", str(tmp_path / "none" / "plan.csv")]) == 1
    assert "plan.png can't be written" in capsys.readouterr().err
    assert main(["plan", "--n", "5", "--cities", "none.csv", "--output", "plan.csv"]) == 1
    assert "ssl4eo-collect: none.csv can't be read" in capsys.readouterr().err


def test_what_is_not_installed_is_named_with_its_extra():
    code = (
        "import sys; sys.modules['pyproj'] = None\n"
        "from ssl4eo_stream.commands.collect import main; sys.exit(main(['plan', '--help']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pyproj is not installed: pip install 'ssl4eo-stream[collect]'" in done.stderr


def test_the_papers_table_gives_no_pair_too_near(real_data):
    cities = read_cities(real_data / "cities" / "worldcities.csv.gz", top=10_000)
    assert cities.names[0] == "Tokyo"
    made = take(around(cities, sigma_metres=50_000.0, seed=0), 30_000)
    assert pairs_within(made.lon, made.lat, LIMIT) == 0
