"""What a tar made elsewhere may hold, and what is said of one that holds something else."""

import io

import numpy as np
import pytest
import tifffile
from trees import members_of, write_tar, write_tree

from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.geotiff import Codec, PageContent, read_pages, write
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.form import codec_of, form_of
from ssl4eo_stream.shard.reindex import reindex
from ssl4eo_stream.shard.verify import verify


def s1_tiff(**how):
    """A Sentinel-1 GeoTIFF as another tool writes it."""
    sink = io.BytesIO()
    ramp = np.linspace(0, 200, 2 * 264 * 264).reshape(2, 264, 264)
    settings = {"photometric": "minisblack", "planarconfig": "separate", "rowsperstrip": 264}
    dtype = how.pop("dtype", "uint8")
    tifffile.imwrite(sink, ramp.astype(dtype), metadata=None, **(settings | how))
    return sink.getvalue()


FACTS = b'{"lon": 1, "lat": 2}'


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.t0.tif": b"no"}, r"x\.tar: member 1\.t0\.tif .*not a TIFF"),
        ({"1.t0.tif": s1_tiff(tile=(16, 16))}, r"1\.t0\.tif has tiles.*a strip for every band"),
        ({"1.t0.tif": s1_tiff(dtype="int16")}, r"int16 pixels; s1 is stored as uint8 or float32"),
        ({"1.json": FACTS}, r"holds no GeoTIFF named KEY\.tN\.tif"),
        ({"a/b.txt": b""}, r"KEY a number; it holds a/b\.txt"),
        ({"1.json": b"{", "1.t0.tif": s1_tiff()}, r"1\.json is not JSON"),
        ({"1.json": b"[]", "1.t0.tif": s1_tiff()}, r"1\.json is a list, not an object"),
        ({"1.json": b'{"lon": "east", "lat": 2}', "1.t0.tif": s1_tiff()}, r"0000001: its JSON"),
        ({"1.json": b'{"lon": 1, "lat": 2, "dates": [{}, {}]}', "1.t0.tif": s1_tiff()},
         r"has 1 GeoTIFFs, and its JSON's `dates`"),
        ({"1.json": b'{"lon": 1, "lat": 2, "dates": [{"time": "soon"}]}', "1.t0.tif": s1_tiff()},
         r"0000001: its JSON can't be used: .*soon"),
        ({"1.json": FACTS, "1.t1.tif": s1_tiff()}, r"has dates \[1\]; number its members"),
        ([("1.t0.tif", s1_tiff()), ("a/0001.t0.tif", s1_tiff())], r"0001\.t0\.tif is there twice"),
        ([("1.json", FACTS), ("01.json", FACTS)], r"01\.json is there twice"),
        ({"1.t0.tif": s1_tiff(), "2.t0.tif": s1_tiff(dtype="float32")}, r"mixes GeoTIFFs: .*uint8"),
    ],
)  # fmt: skip
def test_what_no_shard_holds_is_an_error_that_names_it(tmp_path, members, message):
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(ShardError, match=message):
        reindex(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_other_compressions_are_named_after_their_tiff_tag(tmp_path):
    for number, how in enumerate([{"compression": "zlib"}, {}]):
        write_tar(tmp_path / f"{number}.tar", {f"{number}.t0.tif": s1_tiff(**how),
                                               f"{number}.json": FACTS})  # fmt: skip
    manifest = reindex(str(tmp_path)).manifest
    assert (manifest.codec, manifest.product, manifest.pages) == (
        "deflate+none", "s1", (("VV", "VH"),)
    )  # fmt: skip
    assert verify(tmp_path).problems == ()


@pytest.mark.parametrize("quality", [1, 10, 24, 25, 49, 50, 75, 90, 99, 100])
def test_the_quality_of_jpegs_is_read_off_their_tables(quality):
    bands = [np.add.outer(np.arange(264), np.arange(264)).astype(np.uint8)] * 2
    page = PageContent(bands=bands, geo={}, description="s1 VV VH")
    data = write([page], codec=Codec.parse(f"jpeg:{quality}"))
    pages = read_pages(data, name="x")
    assert codec_of(data, pages[0]) == f"jpeg:{quality}"
    table = data.index(b"\xff\xdb\x00\x43\x00") + 5
    other = data[:table] + bytes([data[table] ^ 1]) + data[table + 1 :]
    assert codec_of(other, pages[0]) == "jpeg:?"


def test_a_product_is_told_by_text_or_sizes(tmp_path):
    write_tree(tmp_path, "s1", [0], dates=1)
    build(tmp_path, tmp_path / "out", product="s1")
    data = members_of(tmp_path / "out" / "s1-000000.tar")["0000000.t0.tif"]
    for each in (data, data.replace(b"s1 VV VH", b"somebody"), data.replace(b"VV VH", b"VH VV")):
        form = form_of(read_pages(each, name="x"), product=None, where="x")
        assert form.product == "s1"
        assert form.pages == ((("VH", "VV"),) if b"VH VV" in each else (("VV", "VH"),))
    with pytest.raises(ShardError, match=r"x is s1 of pages \[\(264, 264, 2\)\].*s2a has"):
        form_of(read_pages(data, name="x"), product="s2a", where="x")
