"""The statistics of shards, against NumPy on all pixels at once."""

import io
import json

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from trees import write_tree

from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.commands.shard import main
from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.manifest import Index
from ssl4eo_stream.shard.quantize import to_bytes
from ssl4eo_stream.shard.stats import BandStats, stats

BAND = PRODUCTS["s2c"].bands[0]
IDS = (0, 1, 5, 6, 9)  # shards 0, 1 and 2 of four ids


def pack(tmp_path, product, codec):
    source = tmp_path / "tree"
    write_tree(source, product, IDS)
    build(source, tmp_path / "out", product=product, codec=codec, samples_per_shard=4, workers=0)
    return source, tmp_path / "out"


def source_pixels(tree, product, band):
    """All pixels of a band as rasterio reads the tree, one long row in float64."""
    paths = sorted((tree / product).glob(f"*/*/{band}.tif"))
    assert paths
    return np.concatenate([rasterio.open(path).read(1).ravel() for path in paths]).astype(float)


def stored_pixels(dest, manifest, band):
    """The same as tifffile decodes what lies in the shards, scaled."""
    page = next(i for i, bands in enumerate(manifest.pages) if band in bands)
    sample, channel = manifest.pages[page].index(band), manifest.bands.index(band)
    index = Index.from_parquet((dest / "index.parquet").read_bytes(), url="x")
    names = {entry.number: entry.name for entry in manifest.shards}
    parts = []
    for i, number in enumerate(index.shards):
        data = (dest / names[int(number)]).read_bytes()
        for j in range(index.first_date[i], index.first_date[i + 1]):
            member = data[index.offsets[j] :][: index.lengths[j]]
            with tifffile.TiffFile(io.BytesIO(member)) as tif:
                pixels = tif.pages[page].asarray()
            parts.append(pixels.reshape(-1, *pixels.shape[-2:])[sample].ravel())
    return np.concatenate(parts) * manifest.scale[channel] + manifest.offset[channel]


def agrees(found, values):
    assert found.count == values.size
    assert found.mean == pytest.approx(values.mean(), rel=1e-9)
    assert found.std == pytest.approx(values.std(), rel=1e-9)
    assert (found.low, found.high) == pytest.approx((values.min(), values.max()), rel=1e-12)
    assert found.histogram.sum() == values.size


@pytest.mark.parametrize("product", ["s1", "s2a", "s2c"])
@pytest.mark.parametrize("workers", [1, 2])
def test_raw_shards_have_the_trees_statistics(product, workers, tmp_path):
    tree, dest = pack(tmp_path, product, "zstd16")
    told = []
    _, found = stats(str(dest), workers=workers, on_start=told.append, on_shard=told.append)
    assert told == [10, 4, 4, 2]
    for band, each in zip(PRODUCTS[product].bands, found, strict=True):
        values = source_pixels(tree, product, band.name)
        agrees(each, values)
        stored = to_bytes(values.astype(PRODUCTS[product].dtype), band=band)
        assert np.array_equal(each.histogram, np.bincount(stored, minlength=256))


@pytest.mark.parametrize(("product", "codec"), [("s1", "zstd"), ("s2c", "jpeg:75")])
def test_byte_shards_have_the_statistics_of_what_is_stored(product, codec, tmp_path):
    _, dest = pack(tmp_path, product, codec)
    manifest, found = stats(str(dest))
    for channel, each in enumerate(found):
        values = stored_pixels(dest, manifest, manifest.bands[channel])
        agrees(each, values)
        levels = (values - manifest.offset[channel]) / manifest.scale[channel]
        expected = np.bincount(np.rint(levels).astype(int), minlength=256)
        assert np.array_equal(each.histogram, expected)


def test_over_http(shards, http):
    here, there = stats(str(shards))[1], stats(http.url, workers=2)[1]
    assert [(each.mean, each.std) for each in here] == [(each.mean, each.std) for each in there]


def test_a_flipped_byte_is_named(tmp_path):
    _, dest = pack(tmp_path, "s1", "zstd")
    index = Index.from_parquet((dest / "index.parquet").read_bytes(), url="x")
    path = dest / "s1-000001.tar"
    data = bytearray(path.read_bytes())
    data[int(index.offsets[index.first_date[2] + 1]) + 3000] ^= 1  # location 5, date 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"s1-000001\.tar, member 0000005\.t1\.tif.*verify"):
        stats(str(dest), workers=2)


pixels = st.lists(st.integers(0, 20_000), min_size=1, max_size=40)


@given(a=pixels, b=pixels, c=pixels, dtype=st.sampled_from(["uint8", "uint16", "float32"]))
def test_parts_in_any_order_are_the_whole(a, b, c, dtype):
    top = 255 if dtype == "uint8" else 20_000
    parts = [np.minimum(each, top).astype(dtype)[None] for each in (a, b, c)]

    def of(values):
        return BandStats.of(values, band=BAND, scale=2.5, offset=-7.0)

    one, two, three = map(of, parts)
    whole = of(np.concatenate(parts, axis=1))
    for merged in ((one + two) + three, three + (BandStats.nothing() + two) + one):
        assert merged.mean == pytest.approx(whole.mean, rel=1e-12, abs=1e-9)
        assert merged.std == pytest.approx(whole.std, rel=1e-9, abs=1e-6)
        assert (merged.count, merged.low, merged.high) == (whole.count, whole.low, whole.high)
        assert np.array_equal(merged.histogram, whole.histogram)


def test_the_command(tmp_path, capsys):
    _, dest = pack(tmp_path, "s2c", "jpeg:75")
    out = tmp_path / "stats.json"
    assert main(["stats", str(dest), "--json", str(out), "--workers", "1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    content = json.loads(out.read_text())
    assert [line.split()[0] for line in printed[1:]] == list(PRODUCTS["s2c"].names)
    assert content["patches"] == 10
    first = content["bands"][0]
    assert f"{first['mean']:.2f}" in printed[1]
    values = np.arange(256) * first["scale"] + first["offset"]
    assert np.average(values, weights=first["histogram"]) == pytest.approx(first["mean"])
    other = tmp_path / "other.json"
    assert main(["stats", str(tmp_path / "nowhere"), "--json", str(other)]) != 0
    assert not other.exists()
    assert main(["stats", str(dest), "--json", str(tmp_path / "nowhere" / "stats.json")]) == 1
    assert "stats.json can't be written: No such file" in capsys.readouterr().err
