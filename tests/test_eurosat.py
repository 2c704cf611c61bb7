"""EuroSAT from wherever it was put, in the bands that are asked for."""

import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from ssl4eo_stream.bands import S1, S2A, S2C
from ssl4eo_stream.errors import SourceError
from ssl4eo_stream.evaluate.datasets import eurosat

ORDER = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B9", "B10", "B11", "B12", "B8A"]
LEVEL = {name: 110 * (1 + place) for place, name in enumerate(ORDER)}
"""Digital number of each band in the tree below."""


def bands_of(product, *names):
    return [band for band in product.bands if band.name in names]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three images of Forest and two of River; the last digit of a value is the image's number."""
    folder = tmp_path_factory.mktemp("eurosat") / "EuroSAT_MS"
    for kind, numbers in (("Forest", [2, 10, 1]), ("River", [3, 4])):
        (folder / kind).mkdir(parents=True)
        for number in numbers:
            values = np.array([LEVEL[name] * number for name in ORDER], np.uint16)
            tifffile.imwrite(
                folder / kind / f"{kind}_{number}.tif",
                np.broadcast_to(values, (64, 64, 13)),
                planarconfig="contig",
            )
    (folder / "readme_1.txt").write_text("not an image")
    return folder


def test_bands_come_by_name_on_the_scale_of_shards(tree):
    data = eurosat.read(tree, bands=S2C.bands, quiet=True)
    assert data.names == ("Forest", "River")
    assert data.classes.tolist() == [0, 0, 0, 1, 1]
    numbers = [1, 2, 10, 3, 4]  # by number, not by letter
    for channel, band in enumerate(S2C.bands):
        expected = [min(255, round(LEVEL[band.name] * n * 255 / 10_000)) for n in numbers]
        assert data.images[:, channel, 5, 60].tolist() == expected, band.name


def test_half_of_each_class_asks(tree):
    assert eurosat.read(tree, bands=S2C.bands, quiet=True).asked.tolist() == [
        False, True, False, False, True,
    ]  # fmt: skip


def test_a_tar_and_a_zip_are_the_folder(tree, tmp_path):
    shutil.make_archive(str(tmp_path / "a"), "gztar", tree.parent)
    shutil.make_archive(str(tmp_path / "b"), "zip", tree.parent)
    wanted = bands_of(S2A, "B8A", "B12")
    expected = eurosat.read(tree, bands=wanted, quiet=True)
    for name in ("a.tar.gz", "b.zip"):
        assert tarfile.is_tarfile(tmp_path / name) != zipfile.is_zipfile(tmp_path / name)
        data = eurosat.read(tmp_path / name, bands=wanted, quiet=True)
        assert np.array_equal(data.images, expected.images)
        assert np.array_equal(data.classes, expected.classes)


@pytest.fixture
def pictures(tmp_path):
    """One JPEG of plain colour, as the RGB version has them."""
    (tmp_path / "RGB" / "Lake").mkdir(parents=True)
    colour = Image.new("RGB", (64, 64), (200, 100, 50))
    colour.save(tmp_path / "RGB" / "Lake" / "Lake_7.jpg", quality=100)
    return tmp_path / "RGB"


def test_jpegs_are_red_green_blue(pictures):
    data = eurosat.read(pictures, bands=bands_of(S2C, "B2", "B3", "B4"), quiet=True)
    expected = [value * 2750 / 10_000 for value in (50, 100, 200)]  # B2 comes first
    assert np.abs(data.images[0, :, 30, 30] - expected).max() <= 1


def test_a_band_that_is_not_there_is_named(pictures, tree):
    with pytest.raises(ValueError, match=r"Lake_7.jpg has no B8, B8A; it has B2, B3, B4\. Train"):
        eurosat.read(pictures, bands=bands_of(S2C, "B8", "B8A"), quiet=True)
    with pytest.raises(ValueError, match="has no VV, VH"):
        eurosat.read(tree, bands=S1.bands, quiet=True)


def test_what_is_not_eurosat_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not there"):
        eurosat.read(tmp_path / "nowhere", bands=S2C.bands, quiet=True)
    with pytest.raises(ValueError, match=r"holds no …/CLASS/CLASS_N\.tif or \.jpg"):
        eurosat.read(tmp_path, bands=S2C.bands, quiet=True)
    (tmp_path / "x.tar").write_text("no tar")
    with pytest.raises(ValueError, match="no folder, tar or zip"):
        eurosat.read(tmp_path / "x.tar", bands=S2C.bands, quiet=True)


@pytest.mark.parametrize(("name", "data"), [("Sea_1.tif", b"II*\0cut"), ("Sea_1.jpg", b"\xff\xd8")])
def test_a_damaged_image_is_named(tmp_path, name, data):
    (tmp_path / "Sea").mkdir()
    (tmp_path / "Sea" / name).write_bytes(data)
    with pytest.raises(SourceError, match=name):
        eurosat.read(tmp_path, bands=bands_of(S2C, "B2"), quiet=True)


def test_an_image_of_another_size_is_named(tmp_path):
    (tmp_path / "Sea").mkdir()
    tifffile.imwrite(tmp_path / "Sea" / "Sea_1.tif", np.zeros((64, 32, 13), np.uint16),
                     planarconfig="contig")  # fmt: skip
    with pytest.raises(SourceError, match=r"Sea_1.tif is of shape \(13, 64, 32\)"):
        eurosat.read(tmp_path, bands=S2C.bands, quiet=True)


def test_the_real_one(real_data):
    """Both versions show reflectance: means within the paper's spread, and plants are bright."""
    many = eurosat.read(
        real_data / "eurosat" / "EuroSAT_MS_subset.tar", bands=S2C.bands, quiet=True
    )
    assert many.images.shape == (130, 13, 64, 64)
    assert np.bincount(many.classes).tolist() == [13] * 10
    means = many.images.mean(axis=(0, 2, 3)) * 10_000 / 255
    for mean, band in zip(means, S2C.bands, strict=True):
        assert abs(mean - band.mean) < 1.2 * band.std + 40, band.name
    assert means[7] > 1.5 * means[3]  # B8 over B4
    few = eurosat.read(real_data / "eurosat" / "EuroSAT_RGB_subset.tar",
                       bands=bands_of(S2C, "B2", "B3", "B4"), quiet=True)  # fmt: skip
    assert few.images.shape == (1400, 3, 64, 64)
    rgb = few.images.mean(axis=(0, 2, 3)) * 10_000 / 255
    assert np.abs(rgb / means[1:4] - 1).max() < 0.35
