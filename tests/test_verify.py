"""Reading a data set back: every kind of damage is found and named."""

import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trees import write_tree

from ssl4eo_stream.errors import ShardError
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.manifest import Index
from ssl4eo_stream.shard.verify import verify

IDS = (0, 1, 5, 6, 9)  # shards 0, 1 and 2 of four ids


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Five Sentinel-1 locations of two dates; read-only."""
    root = tmp_path_factory.mktemp("tree")
    write_tree(root, "s1", IDS)
    return root


def pack(source, dest, **options):
    settings = {"product": "s1", "codec": "zstd", "samples_per_shard": 4, "workers": 0}
    return build(source, dest, **settings | options)


def test_verify_finds_a_flipped_byte_anywhere(tree, tmp_path):
    manifest = pack(tree, tmp_path).manifest
    assert verify(tmp_path, workers=2)[1] == []
    index = Index.from_parquet((tmp_path / "index.parquet").read_bytes(), url="x")
    path = tmp_path / manifest.shards[1].name
    good = path.read_bytes()
    offset = int(index.offsets[index.first_date[2] + 1])  # location 5, date 1
    damages = {
        offset + 3000: "0000005.t1.tif at byte.*crc32c",
        offset - 512: "GeoTIFFs are not|damaged",
        700: "JSON|0000005.json",
        len(good) - 1: "sha256",
    }
    for place, message in damages.items():
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        _, problems = verify(tmp_path)
        assert any("sha256" in problem for problem in problems)
        assert re.search(message, "\n".join(problems)), place
    assert verify(tmp_path, workers=2)[1] == problems


def test_verify_finds_cut_missing_and_left_over_files(tree, tmp_path):
    pack(tree, tmp_path)
    (tmp_path / "s1-000000.tar").unlink()
    path = tmp_path / "s1-000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    shutil.copy(tmp_path / "s1-000002.tar", tmp_path / "s1-000099.tar")
    (tmp_path / ".s1-000007.tar.tmp-1").touch()
    (tmp_path / ".parts").mkdir()
    text = "\n".join(verify(tmp_path)[1])
    for what in (
        "s1-000000.tar: can't be read",
        "s1-000001.tar: .* bytes, the manifest has",
        "s1-000099.tar: not in the manifest",
        "tmp-1: left over",
        "parts: left over",
    ):
        assert re.search(what, text), what
    assert len(text.splitlines()) == 5


def test_verify_finds_an_index_that_is_not_the_manifest_s(tree, tmp_path):
    pack(tree, tmp_path / "out")
    ids = tmp_path / "ids.csv"
    ids.write_text("0\n1\n5\n6\n")
    pack(tree, tmp_path / "fewer", locations=ids)
    shutil.copy(tmp_path / "fewer" / "index.parquet", tmp_path / "out" / "index.parquet")
    problems = "\n".join(verify(tmp_path / "out")[1])
    assert "index.parquet: sha256" in problems
    assert "4 locations and 8 patches" in problems
    assert "s1-000002.tar: its 2 GeoTIFFs are not the 0" in problems


@pytest.mark.parametrize(("column", "what"), [("page_end", "-1"), ("page_crc32c", "+1")])
def test_verify_finds_pages_that_end_elsewhere_than_the_index_says(tmp_path, column, what):
    write_tree(tmp_path, "s2a", [3, 4], dates=1)
    manifest = pack(tmp_path, tmp_path / "out", product="s2a", codec="jpeg:75").manifest
    assert verify(tmp_path / "out")[1] == []
    path = tmp_path / "out" / "index.parquet"
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[1][1] += int(what)
    at = table.schema.get_field_index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(at, field, pa.array(values, field.type)), path)
    problems = verify(tmp_path / "out")[1]
    assert re.search("index.parquet: sha256", problems[0])
    assert len(problems) == 2
    name = manifest.shards[1].name
    assert f"{name}: member 0000004.t0.tif: its pages do not end" in problems[1]


def test_an_index_of_uneven_lists_is_refused(tree, tmp_path):
    pack(tree, tmp_path)
    table = pq.read_table(tmp_path / "index.parquet")
    rows = [[1]] + [[]] * (table.num_rows - 1)
    at = table.schema.get_field_index("page_end")
    column = pa.array(rows, table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), column), tmp_path / "x.parquet")
    with pytest.raises(ShardError, match=r"x: page_end has not 0 values for every date"):
        Index.from_parquet((tmp_path / "x.parquet").read_bytes(), url="x")
