"""The page about shards: that it is true, whole in itself, and holds whatever shards there are."""

import base64
import html
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import members_of, write_tar, write_tree

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.commands.shard import main
from ssl4eo_stream.shard import figures
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.lacks import gaps, id_ranges
from ssl4eo_stream.shard.manifest import Manifest
from ssl4eo_stream.shard.page import place_text
from ssl4eo_stream.shard.reindex import reindex
from ssl4eo_stream.shard.show import sample
from ssl4eo_stream.shard.stats import stats
from ssl4eo_stream.shard.thumbnails import thumbnails

ROOT = Path(__file__).parent.parent


def pack(folder, product, ids, *, codec="jpeg:75", dates=2, metadata="flat"):
    """Shards of a tree of one product; returns their folder."""
    write_tree(folder / "tree", product, ids, dates=dates, metadata=metadata)
    build(
        folder / "tree" / product, folder / product, product=product, codec=codec,
        samples_per_shard=4, workers=0,
    )  # fmt: skip
    return folder / product


def show(tmp_path, *arguments):
    """Run the command; returns the page."""
    output = tmp_path / "page.html"
    assert main(["show", *map(str, arguments), "--output", str(output)]) == 0
    return output.read_text()


def words(page):
    """What a reader sees, in one line: the page without style, charts and tags."""
    page = re.sub(r"<(style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


def pictures(page):
    """The thumbnails, decoded."""
    found = re.findall(r'<img src="data:image/webp;base64,([^"]+)"', page)
    return [
        cv2.imdecode(np.frombuffer(base64.b64decode(each), np.uint8), cv2.IMREAD_COLOR)
        for each in found
    ]


def needs_nothing_else(page):
    """No address that a browser would ask: all it refers to is inside."""
    assert not re.search(r"<(script|iframe|object|embed|base)\b|@import|\bhttps?://", page)
    for target in re.findall(r"""(?:src|href|srcset|data|action)\s*=\s*["']([^"']*)""", page):
        assert target.startswith(("data:", "#")), target
    for target in re.findall(r"url\(([^)]*)\)", page):
        assert target.startswith("#"), target
    names = set(re.findall(r'\bid="([^"]*)"', page))
    assert set(re.findall(r'(?:href="|url\()#([^")]*)', page)) <= names


def test_the_page_tells_what_is_in_the_shards(shards, tmp_path, capsys):
    page = show(tmp_path, shards, "--patches", "64", "--locations", "3")
    told = words(page)
    manifest, found = stats(str(shards))
    size = sum(entry.bytes for entry in manifest.shards)
    raw = sum(band.pixels**2 * 2 for band in PRODUCTS["s2c"].bands)
    for fact in (
        "Sentinel-2 L1C", "16 locations, 64 patches, 2020-06-04 to 2021-03-01", "jpeg:75 (uint8)",
        f"{size / 1e6:.1f} MB a patch {size / 64e3:.1f} KB uncompressed {raw / 1e3:.0f} KB "
        f"compression {raw * 64 / size:.1f} ×", "B2 B3 B4 B8 | B5 B6 B7 B8A B11 B12 | B1 B9 B10",
        manifest.hash[:12], "median 3.5 %, 100 % of the patches have 10 % or less",
        "All 64 patches.", "50.0° N 10.0° E", "2020-08-23 cloud 4 %",
        "Nothing: every location has its four dates",
    ):  # fmt: skip
        assert fact in told, fact
    for band, each in zip(PRODUCTS["s2c"].bands, found, strict=True):
        assert f"{each.mean:.1f} ± {each.std:.1f} paper {band.mean} ± {band.std}" in told
    assert [each.shape for each in pictures(page)] == [(264, 264, 3)] * 12
    assert page.count("<svg") == 1 + 3 + 13  # map, dates and cloud, bands
    needs_nothing_else(page)
    assert len(page) < 2e6
    assert re.search(
        r"page\.html: s2c, locations 16, patches 64; histograms of 64 patches, 3 locations drawn",
        capsys.readouterr().out,
    )


def test_a_sample_is_said_to_be_one(shards, tmp_path):
    told = words(show(tmp_path, shards, "--patches", "10", "--locations", "0"))
    assert "A sample of 10 of the 64 patches, spread evenly over the shards." in told
    assert "What it looks like" not in told


def test_the_same_page_from_afar_and_again(shards, http, tmp_path):
    here = show(tmp_path, shards, "--patches", "8", "--locations", "1")
    assert show(tmp_path, shards, "--patches", "8", "--locations", "1") == here
    there = show(tmp_path, http.url, "--patches", "8", "--locations", "1")
    assert there.replace(http.url, shards.as_uri()) == here


@pytest.mark.parametrize(
    ("product", "codec"), [("s1", "zstd16"), ("s1", "jpeg:90"), ("s2a", "zstd"), ("s2c", "zstd16")]
)
def test_any_product_and_codec_even_one_location_without_metadata(product, codec, tmp_path):
    folder = pack(tmp_path, product, [7], codec=codec, dates=1, metadata="none")
    page = show(tmp_path, folder)
    told = words(page)
    assert "The location lies at 50.0° N 10.0° E." in told
    assert "1 location with 1 of 4 dates" in told
    assert "The index tells no cloud cover" in told
    assert ("radar" in told) == (product == "s1")
    assert ("without a cloud cover" in told) == (product != "s1")
    (picture,) = pictures(page)
    assert picture.std() > 10
    needs_nothing_else(page)


def test_shards_made_elsewhere_without_times(tmp_path):
    folder = pack(tmp_path, "s1", [1, 2])
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    members = members_of(folder / "s1-000000.tar")
    tifs = {name: data for name, data in members.items() if name.endswith(".tif")}
    write_tar(foreign / "any-000000.tar", tifs)
    reindex(str(foreign), workers=0)
    page = show(tmp_path, foreign)
    assert "The index tells no dates" in words(page)
    assert "4 patches without a time" in words(page)
    assert words(page).count("date unknown") == 4
    assert len(pictures(page)) == 4
    needs_nothing_else(page)


@pytest.fixture
def three(tmp_path):
    """Three products, of which one lacks location 5 and another the second date."""
    ids = {"s2c": ([1, 2, 5], 4), "s2a": ([1, 2, 5], 1), "s1": ([1, 2], 4)}
    return [
        pack(tmp_path / product, product, which, dates=dates)
        for product, (which, dates) in ids.items()
    ]


def test_products_side_by_side(three, tmp_path):
    page = show(tmp_path, *three)
    told = words(page)
    assert "Sentinel-2 L1C · Sentinel-2 L2A · Sentinel-1 GRD 3 locations, 23 patches" in told
    assert "0000005 Sentinel" not in told  # only what all of them have is drawn
    assert len(pictures(page)) == 2 * (4 + 1 + 4)
    assert "1 location of Sentinel-2 L1C not in here which 0000005" in told
    assert "3 locations with 1 of 4 dates which 0000001–0000002, 0000005" in told
    assert "2 ids missing between the first and the last which 0000003–0000004" in told
    assert "red, green, blue are VV, VH, VV − VH" in told
    chosen = words(show(tmp_path, three[2], three[1], "--ids", "0000005"))
    assert "50.0° N 10.0° E 0000005" in chosen
    assert "Sentinel-1 GRD: not there" in chosen
    needs_nothing_else(page)


def test_what_was_skipped_is_told_and_escaped(tmp_path):
    folder = pack(tmp_path, "s1", [0])
    line = {"id": "0000003", "reason": "<script>alert('x')</script> & \"B2.tif\" is cut"}
    (folder / "skipped.jsonl").write_text(json.dumps(line) + "\n")
    page = show(tmp_path, folder)
    assert "1 location skipped when the shards were built" in words(page)
    assert f"{line['id']}: {line['reason']}" in html.unescape(page)
    needs_nothing_else(page)
    (folder / "skipped.jsonl").write_text("not json\n")
    assert main(["show", str(folder), "--output", str(tmp_path / "page.html")]) == 1


def test_a_folder_of_a_strange_name(tmp_path):
    folder = pack(tmp_path, "s1", [0])
    strange = folder.rename(tmp_path / "a<b>&'c'")
    page = show(tmp_path, strange)
    assert "<b>&" not in page
    needs_nothing_else(page)


def test_names_and_errors(three, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(three[0]), str(three[2]), "--patches", "1"]) == 0
    assert (tmp_path / "s2c-s1.html").stat().st_size > 10_000
    for arguments, code, message in (
        ([], 2, "give the URL of a folder of shards"),
        ([str(three[0]), "--patches", "0"], 2, "--patches is 0; give 1 or more"),
        ([str(three[0]), "--locations", "-1"], 2, "--locations is -1; give 0 or more"),
        ([str(three[0]), str(three[0])], 1, r"both hold s2c\. Give every product once"),
        ([str(three[0]), "--ids", "9"], 1, r"--ids 0000009 is in none of file://"),
        ([str(three[0]), "--output", "nowhere/x.html"], 1, "--output nowhere/x.html can't be"),
        ([str(tmp_path / "nowhere")], 1, "no such folder"),
    ):
        assert main(["show", *arguments]) == code
        assert re.search(message, capsys.readouterr().err), message


def test_a_flipped_byte_is_named(tmp_path, capsys):
    folder = pack(tmp_path, "s1", [0], codec="zstd")
    tar = folder / "s1-000000.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    assert main(["show", str(folder), "--output", str(tmp_path / "page.html")]) == 1
    assert re.search(r"s1-000000\.tar, member 0000000\.t\d\.tif: crc32c", capsys.readouterr().err)


def test_other_commands_go_without_matplotlib():
    code = (
        "import sys, ssl4eo_stream.commands.shard; "
        "sys.exit(bool({'matplotlib', 'jinja2'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_files_that_are_no_modules_are_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "ssl4eo_stream"
    files = {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert files == set(settings["package-data"]["ssl4eo_stream"])


@given(count=st.integers(1, 5000), wanted=st.integers(1, 600))
def test_a_sample_is_spread_evenly(count, wanted):
    found = sample(count, wanted)
    assert len(found) == min(wanted, count)
    stretch = np.floor(found * (len(found) / count) + 1e-9).astype(int)
    assert np.abs(stretch - np.arange(len(found))).max() <= 1
    assert (np.diff(found) > 0).all()
    assert found[0] >= 0
    assert found[-1] < count
    assert wanted < count or found.tolist() == list(range(count))


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ids_are_spelt_as_they_are(ids):
    def spelt(ranges):
        ends = [list(map(int, each.split("–"))) for each in ranges]
        return {i for first, *last in ends for i in range(first, (last or [first])[0] + 1)}

    array = np.array(sorted(ids, key=lambda i: i * 7 % 61), np.int64)  # in any order
    assert spelt(id_ranges(array)) == ids
    number, ranges = gaps(array)
    assert spelt(ranges) == set(range(min(ids), max(ids))) - ids
    assert number == len(spelt(ranges))


@pytest.mark.parametrize(
    ("lon", "lat", "text"),
    [(11.56, 48.14, "48.1° N 11.6° E"), (-46.63, -23.55, "23.6° S 46.6° W")],
)
def test_places_in_words(lon, lat, text):
    assert place_text(lon, lat) == text


def manifest_of(product):
    bands = PRODUCTS[product].bands
    return Manifest(
        schema_version=2, product=product, bands=PRODUCTS[product].names, pages=(), codec="zstd",
        dtype="uint8", scale=tuple(band.scale for band in bands),
        offset=tuple(band.offset for band in bands), samples_per_shard=1, locations=1, patches=1,
        shards=(), index_sha256="",
    )  # fmt: skip


def test_thumbnails_show_the_bands_they_say_all_dates_alike():
    ramp = np.tile(np.linspace(40, 80, 264), (264, 1))
    names = dict.fromkeys(PRODUCTS["s2c"].names, ramp)
    dim, plain, bright = (
        {name: (values * factor).astype(np.uint8) for name, values in names.items()}
        for factor in (0.8, 1, 2)
    )
    plain["B8"] = plain["B8"].T.copy()
    decoded = [
        cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
        for each in thumbnails([dim, plain, bright], manifest_of("s2c"))
    ]
    assert decoded[0].mean() < decoded[1].mean() - 20 < decoded[2].mean()
    red, green = decoded[1][..., 0], decoded[1][..., 1]
    assert red[-20:].mean() > red[:20].mean() + 100  # B8 brightens downwards, the others rightwards
    assert green[:, -20:].mean() > green[:, :20].mean() + 100
    black, white = (np.percentile(decoded[1], each) for each in (1, 99))
    assert black < 15
    assert white > 240


def test_radar_is_vv_vh_and_their_ratio():
    flat, ramp = np.full((264, 264), 100, np.uint8), np.tile(np.arange(264) * 0.9, (264, 1))
    (data,) = thumbnails([{"VV": flat, "VH": ramp.astype(np.uint8)}], manifest_of("s1"))
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    green, blue = picture[..., 1].mean(0), picture[..., 2].mean(0)
    assert green[-30:].mean() > green[:30].mean() + 150
    assert blue[-30:].mean() < blue[:30].mean() - 150


@pytest.mark.parametrize("locations", [1, 1500, 1501, 251_079])
def test_the_map_stays_light(locations):
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, locations), rng.uniform(-56, 72, locations)
    svg = str(figures.world_map(lon, lat))
    assert len(svg) < 350_000
    if locations <= 1500:
        assert svg.count("<use ") == locations
        return
    land, cells = svg.index("var(--land)"), svg.index("data:image/png;base64,")
    assert land < cells  # what comes later lies on top
    data = base64.b64decode(svg[cells + 22 : svg.index('"', cells)])
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (image[..., 3] > 0).sum() == len({*zip(np.floor(lon), np.floor(lat), strict=True)})
