"""Where it goes: the released layout, complete at every moment."""

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from archive_of_images import Images, scene

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.collect.scene import box_around
from ssl4eo_stream.collect.taken import Place, Taken
from ssl4eo_stream.collect.tree import UNFINISHED, Tree
from ssl4eo_stream.errors import ServiceError, StorageError
from ssl4eo_stream.geotiff import project, read_pages
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.source import read_location, read_patch

HERE = Place(id=17, lon=10.7, lat=48.2)
TIMES = [datetime(2021, month, 20, 10, tzinfo=UTC) for month in (3, 6, 9, 12)]


def taken(place=HERE, products=tuple(PRODUCTS), times=TIMES):
    made = {}
    for product in products:
        scenes = [scene(product, time) for time in times]
        boxes = [box_around(each, lon=place.lon, lat=place.lat) for each in scenes]
        made[product] = [
            Taken(scene=each, box=box, pixels=Images().pixels(each, box))
            for each, box in zip(scenes, boxes, strict=True)
        ]
    return made


def digests(folder):
    """SHA-256 of every file of the products' folders, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for product in PRODUCTS
        for path in sorted((folder / product).rglob("*"))
        if path.is_file()
    }


def test_a_location_is_laid_out_as_released(tmp_path):
    tree = Tree(tmp_path, products=tuple(PRODUCTS))
    made = taken()
    tree.write(HERE, made, source="somewhere")
    tree.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s1", "s2a", "s2c"]
    for name, product in PRODUCTS.items():
        folder = tmp_path / name / "0000017"
        location = read_location(folder, product=product)
        assert (location.lon, location.lat) == (HERE.lon, HERE.lat)
        assert [each.time for each in location.acquisitions] == TIMES
        for acquisition, each in zip(location.acquisitions, made[name], strict=True):
            assert acquisition.name == each.scene.name
            patch = read_patch(acquisition, product=product)
            assert all(map(np.array_equal, patch.bands, each.pixels.bands))
            fields = json.loads((folder / acquisition.name / "metadata.json").read_text())
            assert fields["source"] == "somewhere"
            assert "missing_pixels" not in fields
            assert fields.get("MGRS_TILE") == (None if name == "s1" else "32UPU")
            for band, path in zip(product.bands, acquisition.bands, strict=True):
                with rasterio.open(path) as file:
                    assert file.crs.to_epsg() == 32632
                    assert file.compression is None
                    assert len(read_pages(path.read_bytes(), name="")[0].strip_offsets) == 1
                    assert file.res == (band.resolution_metres, band.resolution_metres)
                    assert (file.bounds.left, file.bounds.top) == (each.box.left, each.box.top)
                    assert (file.bounds.left - 600000) % (60 if name != "s1" else 10) == 0
                    x, y = project(HERE.lon, HERE.lat, epsg=32632)
                    assert abs((file.bounds.left + file.bounds.right) / 2 - x) <= 30
                    assert abs((file.bounds.top + file.bounds.bottom) / 2 - y) <= 30
        built = build(tmp_path, tmp_path.parent / f"shards-{name}", product=name, workers=0)
        assert (built.manifest.locations, built.manifest.patches) == (1, 4)


def test_missing_pixels_are_told_of(tmp_path):
    images, each = Images(whole=0.0), scene("s2a", TIMES[0])
    box = box_around(each, lon=HERE.lon, lat=HERE.lat)
    pixels = images.pixels(each, box)
    Tree(tmp_path, products=("s2a",)).write(
        HERE, {"s2a": [Taken(scene=each, box=box, pixels=pixels)]}, source="s"
    )
    (path,) = tmp_path.rglob("metadata.json")
    assert json.loads(path.read_text())["missing_pixels"] == 1
    (location,) = [read_location(path.parent.parent, product=PRODUCTS["s2a"])]
    for band in read_patch(location.acquisitions[0], product=PRODUCTS["s2a"]).bands:
        assert np.argwhere(band == 0).tolist() == [[0, 0]]
        assert (band != 65_535).all()


def test_two_dates_of_one_name_are_refused(tmp_path):
    made = taken(products=("s2a",), times=[TIMES[0], TIMES[0]])
    with pytest.raises(ServiceError, match="location 0000017: two dates of s2a have the same name"):
        Tree(tmp_path, products=("s2a",)).write(HERE, made, source="s")
    assert not digests(tmp_path)


class Killed(BaseException):
    """What no code that is tested can catch by name."""


def test_a_kill_at_any_step_leaves_only_whole_folders_and_can_be_repeated(tmp_path, monkeypatch):
    """Every change of the file system is the last one in turn; the location is redone after it."""
    products = ("s1", "s2a")
    made = taken(products=products, times=TIMES[:2])
    straight = tmp_path / "straight"
    Tree(straight, products=products).write(HERE, made, source="s")
    expected = digests(straight)
    left = 0
    real = {name: getattr(Path, name) for name in ("mkdir", "write_bytes", "rename", "rmdir")}
    real_rmtree = shutil.rmtree

    def counted(step):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return step(*args, **kwargs)

        return call

    for name, step in real.items():
        monkeypatch.setattr(Path, name, counted(step))
    monkeypatch.setattr(shutil, "rmtree", counted(real_rmtree))
    dest = tmp_path / "killed"
    for over_a_whole_one in (False, True):
        for steps in range(200):
            left = 10**6
            tree = Tree(dest, products=products)
            if over_a_whole_one:
                tree.write(HERE, made, source="old")
            left = steps
            try:
                tree.write(HERE, made, source="s")
            except Killed:
                left = 10**6
                for product in products:
                    for folder in (dest / product).glob("*"):
                        files = [path for path in folder.rglob("*") if path.is_file()]
                        assert len(files) == 2 * (len(PRODUCTS[product].bands) + 1)
                Tree(dest, products=products).write(HERE, made, source="s")
                assert digests(dest) == expected
                assert not any((dest / UNFINISHED).iterdir())
                Tree(dest, products=products).discard(HERE)
                assert not digests(dest)
            else:
                break
        assert 25 < steps < 199
        assert digests(dest) == expected


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "s1").write_text("a file where a folder belongs")
    with pytest.raises(StorageError, match=r"s1 can't be written: File exists\. Free"):
        Tree(tmp_path, products=("s1",)).write(HERE, taken(products=("s1",)), source="s")
