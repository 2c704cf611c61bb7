"""What can happen to a data set: every way of breaking one, by name."""

import json
import shutil
import tarfile

from ssl4eo_stream.shard.build import build

SECOND = "s1-000001.tar"  # locations 5 and 6


def contents(folder):
    """Name -> bytes of all files."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path, at):
    """Turn one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


def place(path, name):
    """(header, first byte, bytes) of a member."""
    with tarfile.open(path) as tar:
        info = tar.getmember(name)
    return info.offset, info.offset_data, info.size


def _pixels(folder):
    flip(folder / SECOND, place(folder / SECOND, "0000005.t1.tif")[1] + 3000)


def _header(folder):
    flip(folder / SECOND, place(folder / SECOND, "0000005.t1.tif")[0] + 2)


def _owner(folder):
    """A byte of a header that no reader looks at, and its checksum with it."""
    path = folder / SECOND
    start = place(path, "0000005.t1.tif")[0]
    data = bytearray(path.read_bytes())
    header = tarfile.TarInfo.frombuf(bytes(data[start : start + 512]), "ascii", "strict")
    header.uname = "x"
    data[start : start + 512] = header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    path.write_bytes(data)


def _padding(folder):
    _, start, size = place(folder / SECOND, "0000005.json")
    flip(folder / SECOND, start + size)


def _end(folder):
    flip(folder / SECOND, (folder / SECOND).stat().st_size - 1)


def _json(folder):
    path = folder / SECOND
    _, start, size = place(path, "0000006.json")
    data = path.read_bytes()
    wrong = data[start : start + size].replace(b'"0000006"', b'"0000007"')
    path.write_bytes(data[:start] + wrong + data[start + size :])


def _missing(folder):
    (folder / SECOND).unlink()


def _cut(folder):
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-70_000])


def _empty(folder):
    (folder / SECOND).write_bytes(b"")


def _two(folder):
    _pixels(folder)
    (folder / "s1-000002.tar").unlink()


def _no_index(folder):
    (folder / "index.parquet").unlink()


def _cut_index(folder):
    path = folder / "index.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def _garbage_index(folder):
    (folder / "index.parquet").write_bytes(b"<html>not found</html>" * 20)


def _fewer(folder, tmp):
    """The data set with one location less, in a folder beside it."""
    ids = tmp / "ids.csv"
    ids.write_text("0\n1\n5\n6\n")
    build(folder.parent / "tree", tmp / "fewer", product="s1", codec="zstd", samples_per_shard=4,
          locations=ids)  # fmt: skip
    return tmp / "fewer"


def _stale_index(folder):
    shutil.copy(_fewer(folder, folder.parent) / "index.parquet", folder)


def _stale_manifest(folder):
    shutil.copy(_fewer(folder, folder.parent) / "manifest.json", folder)


def _no_manifest(folder):
    (folder / "manifest.json").unlink()


def _cut_manifest(folder):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:300])


def _odd_manifest(folder):
    path = folder / "manifest.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | {"dtype": "uint9"}))


def _extra(folder):
    shutil.copy(folder / "s1-000002.tar", folder / "s1-000099.tar")


def _killed(folder):
    (folder / ".s1-000001.tar.tmp-77").write_bytes(b"half")
    (folder / ".parts").mkdir()
    (folder / ".parts" / "settings.json").write_text("{}")


SHARDS = {
    "a bit of a member": (_pixels, r"s1-000001\.tar: member 0000005\.t1\.tif at .*crc32c"),
    "a bit of a header": (_header, r"s1-000001\.tar: it is damaged: there is no tar header"),
    "a header's owner": (_owner, r"s1-000001\.tar: its sha256 is not the manifest's"),
    "a bit of padding": (_padding, r"s1-000001\.tar: its sha256 is not the manifest's"),
    "a bit of the end": (_end, r"s1-000001\.tar: it is damaged: there is no tar header"),
    "a JSON": (_json, r"s1-000001\.tar: member 0000006\.json is of location 0000007"),
    "a missing shard": (_missing, r"s1-000001\.tar: it is missing"),
    "a cut shard": (_cut, r"s1-000001\.tar: it has \d+ bytes, the manifest says"),
    "an empty shard": (_empty, r"s1-000001\.tar: it is no tar, or cut"),
    "two shards": (_two, r"(?s)s1-000001\.tar: .*s1-000002\.tar: it is missing"),
}
"""Damage that needs the source -> (how to do it, what has to be said of it)."""

REST = {
    "no index": (_no_index, r"index\.parquet: it is missing"),
    "a cut index": (_cut_index, r"index\.parquet: it is not an index"),
    "a garbage index": (_garbage_index, r"index\.parquet: it is not an index"),
    "a stale index": (_stale_index, r"index\.parquet: its sha256 is not the manifest's"),
    "a stale manifest": (
        _stale_manifest,
        r"manifest\.json: it is of other shards than index\.parquet, .* of s1-000002\.tar",
    ),
    "no manifest": (_no_manifest, r"manifest\.json: it is missing"),
    "a cut manifest": (_cut_manifest, r"manifest\.json: it is not a manifest"),
    "an odd manifest": (_odd_manifest, r"(?s)manifest\.json: .*has pages .*uint9"),
    "an extra tar": (_extra, r"s1-000099\.tar: it is not of this data set"),
    "a killed build": (_killed, r"(?s)parts: it was left .*tmp-77: it was left"),
}
"""Damage that is mended without a source."""
