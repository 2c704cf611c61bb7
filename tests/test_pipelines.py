"""Every pipeline of the comparison loads what it says, whatever else of them is installed."""

import importlib
import tarfile

import numpy as np
import pytest
import simplejpeg
import torch
from pipelines import generic_views, stream
from pipelines.contender import BATCH, SIZE, Contender, rate_of
from pipelines.material import DATES, PIXELS, Material, upsampled
from trees import write_tree

from ssl4eo_stream.augment.views import MoCoViews, OneView
from ssl4eo_stream.bands import S2C
from ssl4eo_stream.stream.decode import Decoder
from ssl4eo_stream.strips import decode_sample, read_pages

BANDS = len(S2C.bands)
LOCATIONS = 20
OTHERS = {
    "published": "lmdb",
    "webdataset_tars": "webdataset",
    "torchgeo_tree": "torchgeo",
    "litdata_chunks": "litdata",
    "mosaic_shards": "streaming",
}
"""Module -> what it needs."""


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    write_tree(folder / "small", "s2c", range(3), dates=2)
    return Material(source=folder / "small", root=folder / "grown", locations=LOCATIONS)


def test_a_location_has_four_dates_of_two_places(material):
    assert len(material.patches) == 6
    for location in range(LOCATIONS):
        dates = material.dates_of(location)
        assert dates[:2] == (2 * (location % 3), 2 * (location % 3) + 1)
        assert dates[2] % 2 == 0
        assert dates[3] == dates[2] + 1
    pairs = {material.dates_of(location) for location in range(9)}
    assert len(pairs) == 9  # other partners each time round


def test_shards_and_images_hold_the_same_patches(material):
    """Location 4 of the shards, losslessly kept, is the small tree's second place and another."""
    members = stream.members_of(material.shards("zstd"))
    assert sorted(members) == list(range(LOCATIONS))
    planes = [
        [decode_sample(member, page, sample, name="m")
         for page in read_pages(member, name="m") for sample in range(page.samples)]
        for member in members[4]
    ]  # fmt: skip
    coarse_last = sorted(range(BANDS), key=lambda band: -S2C.bands[band].pixels)
    for date, patch in enumerate(material.dates_of(4)):
        for plane, band in zip(planes[date], coarse_last, strict=True):
            assert np.array_equal(plane, material.patches[patch][band])
    *_, images = (image for image, _ in zip(material.images(), range(5), strict=False))
    assert images.shape == (DATES, BANDS, PIXELS, PIXELS)
    assert np.array_equal(images[3], upsampled(material.patches[material.dates_of(4)[3]]))


@pytest.mark.parametrize("pixels", [132, 44])
def test_coarse_bands_are_interpolated_between_pixel_centres(pixels):
    """A ramp over the ground stays that ramp, flat only in the half pixels at its ends."""
    factor = PIXELS // pixels
    coarse = np.broadcast_to((np.arange(pixels) * 250 // pixels).astype(np.uint8), (pixels,) * 2)
    (fine,) = upsampled([np.ascontiguousarray(coarse)])
    position = (np.arange(PIXELS) + 0.5) / factor - 0.5
    expected = np.interp(position, np.arange(pixels), coarse[0])
    assert np.abs(fine - expected[None]).max() <= 0.5 + 1e-6


def check(contender, *, batches, size=SIZE):
    """Take batches and close; every view has its shape, range, and is not one colour."""
    run = contender.start(0)
    seen = [next(run) for _ in range(batches)]
    run.close()
    for batch in seen:
        assert len(batch) == contender.views
        for view in batch:
            assert view.shape == (BATCH, BANDS, size, size)
            top = 255 if view.dtype == torch.uint8 else 1 + 1e-5
            if "bare" in contender.name:
                top = 2**16
            assert 0 <= view.min() <= view.max() <= top
            assert view.float().std() > 0.02 * top / 2 or "bare" in contender.name
    first, second = seen[0][0], seen[1][0]
    assert contender.kind == "bound" or not torch.equal(first, second)


def test_ours_yield_batches_in_the_promised_shape(material):
    found = stream.contenders(material, codecs=("jpeg:75", "zstd"))
    assert [each.kind for each in found] == ["ours", "ours", "ours", "bound", "bound"]
    for contender in found:
        check(contender, batches=3)  # an epoch of 20 locations has one batch
    details = found[0].details()
    assert details["kB/sample"] > 1
    assert sum(v for k, v in details.items() if k.endswith("%")) == pytest.approx(100, abs=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore")  # other packages' own
def test_others_yield_batches_in_the_promised_shape(material, name):
    pytest.importorskip(OTHERS[name], exc_type=ImportError)
    found = importlib.import_module(f"pipelines.{name}").contenders(material)
    assert found
    assert {each.kind for each in found} <= {"published", "our decoder and views", "as documented"}
    for contender in found:
        bare = "bare" in contender.name
        check(contender, batches=2, size=PIXELS if bare else SIZE)


def test_the_one_view_is_mocos_crop_and_mirror():
    rng = np.random.default_rng(0)
    planes = [rng.integers(0, 256, (band.pixels,) * 2, np.uint8) for band in S2C.bands]
    out, expected = (np.zeros((BANDS, 48, 48), np.uint8) for _ in range(2))
    OneView(size=48).render(planes, view=0, rng=np.random.default_rng(3), out=out, lap=print)
    plain = MoCoViews(size=48, brightness=0.0, contrast=0.0, gray_probability=0.0,
                      blur_probability=0.0)  # fmt: skip
    plain.render(planes, view=0, rng=np.random.default_rng(3), out=expected, lap=print)
    assert np.array_equal(out, expected)
    drawn = {OneView().dates(4, rng=rng) for _ in range(100)}
    assert drawn == {(0,), (1,), (2,), (3,)}


def test_bands_of_other_sizes_are_stacked_in_order():
    planes = [torch.full((band.pixels,) * 2, i, dtype=torch.uint8)
              for i, band in enumerate(S2C.bands)]  # fmt: skip
    image = generic_views.stacked(planes)
    assert torch.equal(image.float().mean(dim=(1, 2)), torch.arange(13.0))


def test_both_tars_of_webdataset_hold_the_patches(material):
    tars = pytest.importorskip("pipelines.webdataset_tars")
    patch = material.patches[material.dates_of(7)[2]]
    whole = generic_views.stacked([torch.from_numpy(plane) for plane in patch])
    assert torch.equal(tars.decode_tif(stream.members_of(material.shards("zstd"))[7][2]), whole)
    folder = material.root / "bands"
    tars.write_band_tars(material, folder)
    with tarfile.open(folder / "000000.tar") as tar:
        assert len(tar.getnames()) == LOCATIONS * DATES * BANDS
        jpeg = tar.extractfile("0000007.t2.b8.jpg").read()
    member = stream.members_of(material.shards("jpeg:75"))[7][2]
    planes = Decoder(stream.manifest_of(material.shards("jpeg:75")))(member, name="m")
    assert np.array_equal(simplejpeg.decode_jpeg(jpeg, "GRAY")[..., 0], planes[8])


def test_the_rate_leaves_out_the_first_of_each_worker(monkeypatch):
    """One batch a second once everybody has made the first."""
    clock = [0.0]
    monkeypatch.setattr("pipelines.contender.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("pipelines.contender.time.process_time", lambda: clock[0] / 4)

    def batches(ahead):
        for number in range(10_000):
            clock[0] += 0 if number < ahead else 1
            yield [torch.empty(BATCH, 1)]

    for workers, ahead in ((0, 1), (1, 1), (2, 2)):
        rate = rate_of(batches(ahead), seconds=60, workers=workers)
        assert rate.per_second == pytest.approx(BATCH)
        assert rate.per_cpu_second == pytest.approx(4 * BATCH)


def test_contenders_are_values():
    contender = Contender(name="x", kind="ours", views=2, start=lambda _: iter(()))
    assert contender.details() == {}
