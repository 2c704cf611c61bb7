"""Several products at once, and parts of them: joined, selected, left out before any download."""

from dataclasses import replace

import numpy as np
import pytest
from trees import write_tree

from ssl4eo_stream import Selection, StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.errors import CheckpointError, ShardError, SourceError
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.quantize import to_bytes

WHOLE = MoCoViews(
    size=264, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip_probability=0.0,
    jitter_probability=0.0, gray_probability=0.0, blur_probability=0.0,
)  # fmt: skip
"""Shows 10 m bands as they are."""
TEN_METRES = ("B4", "B3", "B2", "B8")


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """S2 and S1 of locations 0-9 on three dates; S1 lacks two locations and a date of a third."""
    folder = tmp_path_factory.mktemp("products")
    pixels = {"s2c": write_tree(folder, "s2c", range(10), dates=3)}
    pixels["s1"] = write_tree(folder, "s1", [i for i in range(8) if i != 5], dates=3)
    pixels["s1"] |= write_tree(folder, "s1", [5], dates=2)
    for product, ids in (("s2c", range(10)), ("s1", range(8))):
        for name, chosen in (("all", ids), ("even", [i for i in range(8) if i != 5])):
            table = folder / f"{product}-{name}.csv"
            table.write_text("\n".join(map(str, chosen)))
            build(
                folder / product, folder / name / product, product=product, codec="zstd",
                samples_per_shard=4, workers=0, locations=table,
            )  # fmt: skip
    return folder, pixels


def batches(url, **changes):
    with StreamLoader(url, **({"views": WHOLE, "batch_size": 1} | changes)) as loader:
        for batch in loader:
            yield int(batch.keys[0]), batch.dates[0].tolist(), [v[0].numpy() for v in batch.views]


def stored(pixels, product, location, date, name):
    position = PRODUCTS[product].names.index(name)
    values = pixels[product][location][date][position]
    return to_bytes(values, band=PRODUCTS[product].bands[position])


@pytest.mark.parametrize("names", [("s2c", "s1"), ("s1", "s2c")])
@pytest.mark.parametrize("workers", [0, 2])
def test_products_are_joined_by_key_and_date(trees, names, workers):
    folder, pixels = trees
    urls = [str(folder / "even" / name) for name in names]
    seen = set()
    for location, dates, views in batches(urls, workers=workers):
        seen.add(location)
        for view, date in zip(views, dates, strict=True):
            assert view.shape == (15, 264, 264)
            channel = 0
            for name in names:
                for band in PRODUCTS[name].bands:
                    if band.pixels == 264:
                        expected = stored(pixels, name, location, date, band.name)
                        assert np.array_equal(view[channel], expected), (name, band.name)
                    channel += 1
    assert seen == {0, 1, 2, 3, 4, 6, 7}


def test_what_a_product_lacks_is_an_error_at_the_start_or_left_out_and_counted(trees):
    folder, _ = trees
    urls = [str(folder / "all" / name) for name in ("s2c", "s1")]
    with pytest.raises(ShardError, match=r"2 locations are in s2c.*0000008, 0000009.*skip"):
        StreamLoader(urls, views=WHOLE, batch_size=1)
    with StreamLoader(
        urls, views=WHOLE, batch_size=1, select=Selection(on_mismatch="skip")
    ) as loader:
        assert loader.left_out == {"locations": 2, "dates": 1}
        seen = [(batch.keys[0], batch.dates.max().item()) for _ in range(8) for batch in loader]
    assert {key for key, _ in seen} == {f"{i:07d}" for i in range(8)}
    assert max(date for key, date in seen if key == "0000005") == 1
    assert max(date for _, date in seen) == 2


def test_dates_that_differ_alone_are_an_error_too(trees, tmp_path):
    folder, _ = trees
    ids = tmp_path / "ids.csv"
    ids.write_text("4\n5\n6\n")
    for product in ("s2c", "s1"):
        build(folder / product, tmp_path / product, product=product, codec="zstd", workers=0,
              locations=ids)  # fmt: skip
    urls = [str(tmp_path / name) for name in ("s2c", "s1")]
    with pytest.raises(ShardError, match=r"1 locations have not the same number of dates.*0000005"):
        StreamLoader(urls, views=WHOLE, batch_size=1)


def test_a_view_without_a_sensor_is_black_there_and_does_not_read_it(trees):
    folder, pixels = trees
    urls = [str(folder / "even" / name) for name in ("s2c", "s1")]
    select = Selection(sensor_drop=1.0)
    counts = {"s2c": 0, "s1": 0}
    with StreamLoader(urls, views=WHOLE, batch_size=1, select=select) as loader:
        for _ in range(6):
            for batch in loader:
                for view, date in zip(batch.views, batch.dates[0].tolist(), strict=True):
                    bands = view[0].numpy()
                    shown = "s2c" if bands[:13].any() else "s1"
                    counts[shown] += 1
                    assert not bands[13:].any() if shown == "s2c" else not bands[:13].any()
                    channel, name = (3, "B4") if shown == "s2c" else (14, "VH")
                    expected = stored(pixels, shown, int(batch.keys[0]), date, name)
                    assert np.array_equal(bands[channel], expected)
        dropped = loader.stats()["bytes_per_sample"]
    assert min(counts.values()) > sum(counts.values()) / 4
    with StreamLoader(urls, views=WHOLE, batch_size=1) as loader:
        for _ in range(6):
            for _ in loader:
                pass
        assert dropped < 0.75 * loader.stats()["bytes_per_sample"]


def test_sensors_are_dropped_as_often_as_asked(trees):
    folder, _ = trees
    urls = [str(folder / "even" / name) for name in ("s2c", "s1")]
    views = MoCoViews(size=16, jitter_probability=0.0)
    both = total = 0
    with StreamLoader(urls, views=views, batch_size=7, select=Selection(sensor_drop=0.5)) as loader:
        for _ in range(20):
            for batch in loader:
                for view in batch.views:
                    has = view[:, :13].flatten(1).any(1) & view[:, 13:].flatten(1).any(1)
                    both, total = both + int(has.sum()), total + len(has)
    assert abs(both / total - 0.5) < 0.12  # four standard deviations of 280 coins


def test_bands_are_read_in_the_order_asked_for_and_no_other_pages(trees):
    folder, pixels = trees
    url = str(folder / "all" / "s2c")
    select = Selection(bands=TEN_METRES)
    for location, dates, views in batches(url, select=select):
        for view, date in zip(views, dates, strict=True):
            for channel, name in enumerate(TEN_METRES):
                assert np.array_equal(view[channel], stored(pixels, "s2c", location, date, name))
    sizes = {}
    for name, bands in (("all", None), ("10 m", ("B4",)), ("20 m", ("B5",))):
        with StreamLoader(url, views=MoCoViews(size=8), batch_size=5,
                          select=Selection(bands=bands)) as loader:  # fmt: skip
            assert loader.channels == (len(bands) if bands else 13)
            list(loader)
            sizes[name] = loader.stats()["bytes_per_sample"]
    assert sizes["10 m"] < 0.8 * sizes["20 m"] < 0.99 * sizes["all"]


def test_bands_of_several_products(trees):
    folder, pixels = trees
    urls = [str(folder / "even" / name) for name in ("s2c", "s1")]
    for location, dates, views in batches(urls, select=Selection(bands=("VH", "s2c:B8", "B2"))):
        expected = [("s2c", "B8"), ("s2c", "B2"), ("s1", "VH")]
        for channel, (product, name) in enumerate(expected):
            want = stored(pixels, product, location, dates[0], name)
            assert np.array_equal(views[0][channel], want)
    with StreamLoader(urls, views=WHOLE, batch_size=1, select=Selection(bands=("VV",))) as loader:
        assert [manifest.product for manifest in loader.manifests] == ["s1"]


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ({"bands": ("B4", "B99")}, r"Band B99 is not there. s2c has B1, B2"),
        ({"bands": ("B4", "B4")}, "twice"),
        ({"bands": ("s1:VV",)}, "not there"),
        ({"bands": ()}, "bands is empty"),
        ({"fraction": 0.0}, "fraction is 0.0"),
        ({"fraction": 0.01}, "0 samples"),
        ({"locations": (1, 77)}, "1 of the 2 locations asked for.*0000077"),
        ({"sensor_drop": 2.0}, "sensor_drop is 2.0"),
    ],
)
def test_a_selection_that_does_not_fit_says_why(trees, select, message):
    folder, _ = trees
    with pytest.raises(ValueError, match=message):
        StreamLoader(str(folder / "all" / "s2c"), views=WHOLE, batch_size=1,
                     select=Selection(**select))  # fmt: skip


def test_the_same_product_twice_is_refused(trees):
    folder, _ = trees
    url = str(folder / "all" / "s2c")
    with pytest.raises(ValueError, match="s2c, s2c"):
        StreamLoader([url, url], views=WHOLE, batch_size=1)


def test_locations_from_a_file_or_a_list(trees, tmp_path):
    folder, _ = trees
    url = str(folder / "all" / "s2c")
    ids = tmp_path / "ids.csv"
    ids.write_text("id,city\n0000003,A\n9,B\n")
    for chosen in (ids, (3, 9)):
        found = {location for location, _, _ in batches(url, select=Selection(locations=chosen))}
        assert found == {3, 9}
    ids.write_text("three\n")
    with pytest.raises(SourceError, match=r"ids\.csv"):
        StreamLoader(url, views=WHOLE, batch_size=1, select=Selection(locations=ids))


def test_fractions_are_nested_and_the_same_in_every_run(trees):
    folder, _ = trees
    url = str(folder / "all" / "s2c")
    found = {}
    for fraction in (0.3, 0.6, 1.0):
        for seed in (0, 1):
            got = {location for location, _, _ in
                   batches(url, seed=seed, select=Selection(fraction=fraction))}  # fmt: skip
            assert found.setdefault(fraction, got) == got
    assert found[0.3] < found[0.6] < found[1.0]
    assert [len(found[fraction]) for fraction in (0.3, 0.6, 1.0)] == [3, 6, 10]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_over_patches_shows_every_date_once(trees, workers):
    folder, pixels = trees
    url = str(folder / "all" / "s2c")
    views = replace(WHOLE, season="random")
    seen = []
    for location, dates, shown in batches(
        url, views=views, workers=workers, select=Selection(unit="patch")
    ):
        assert dates[0] == dates[1]
        assert np.array_equal(shown[0][3], stored(pixels, "s2c", location, dates[0], "B4"))
        seen.append((location, dates[0]))
    assert sorted(seen) == [(location, date) for location in range(10) for date in range(3)]


def test_a_state_of_another_selection_is_refused(trees):
    folder, _ = trees
    url = str(folder / "all" / "s2c")

    def loader(**select):
        return StreamLoader(url, views=WHOLE, batch_size=1, select=Selection(**select))

    state = loader().state_dict()
    for select, message in (
        ({"bands": ("B4",)}, "bands"),
        ({"fraction": 0.5}, "locations or dates"),
        ({"unit": "patch"}, "locations or dates"),
    ):
        with pytest.raises(CheckpointError, match=message):
            loader(**select).load_state_dict(state)
    loader(fraction=1.0).load_state_dict(state)
