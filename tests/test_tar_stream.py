"""Tars read front to back, against `tarfile`, in every format that it writes."""

import io
import itertools
import random
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl4eo_stream.shard.tar_stream import plain_headers, regular_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar_of(members, *, form):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for name, kind, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data)
            info.linkname = "elsewhere" if kind == tarfile.SYMTYPE else ""
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def read(data, *, wanted=lambda _name, _size: True):
    file = io.BufferedReader(io.BytesIO(data))
    return [(name, found and bytes(found)) for name, found in regular_members(file, wanted=wanted)]


def by_tarfile(data):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar if info.isreg()]


NAMES = st.one_of(
    st.text("abcXYZ019_.-", min_size=1, max_size=30),
    st.text("aé日 ", min_size=1, max_size=20).filter(str.strip),
    st.builds("/".join, st.lists(st.text("abc0", min_size=1, max_size=90), min_size=2, max_size=5)),
)
MEMBERS = st.lists(
    st.one_of(
        st.tuples(NAMES, st.just(tarfile.REGTYPE), st.binary(max_size=3000)),
        st.tuples(NAMES, st.sampled_from([tarfile.DIRTYPE, tarfile.SYMTYPE]), st.just(b"")),
    ),
    max_size=8,
)


@pytest.mark.parametrize("form", ["gnu", "pax"])
@settings(max_examples=150, deadline=None)
@given(members=MEMBERS)
def test_members_are_those_that_tarfile_finds(form, members):
    data = tar_of(members, form=FORMATS[form])
    assert read(data) == by_tarfile(data)


@pytest.mark.parametrize("length", [99, 100, 101, 155, 156, 200, 255])
@pytest.mark.parametrize("form", FORMATS)
def test_long_names(form, length):
    folder = "f" * min(155, length - 90)  # as ustar has it
    name = f"{folder}/{'n' * (length - len(folder) - 1)}"
    data = tar_of([(name, tarfile.REGTYPE, b"content")] * 2, form=FORMATS[form])
    assert read(data) == [(name, b"content")] * 2


def test_a_size_in_binary_is_read_and_so_is_what_follows():
    data = bytearray(tar_of([("a", b"0", b"abc"), ("b", b"0", b"d")], form=tarfile.GNU_FORMAT))
    data[124:136] = b"\x80" + (3).to_bytes(11, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert read(bytes(data)) == by_tarfile(bytes(data)) == [("a", b"abc"), ("b", b"d")]


def test_content_goes_where_it_is_wanted():
    data = tar_of([("a", b"0", b"first"), ("b", b"0", b"second"), ("c", b"0", b"3")],
                  form=tarfile.PAX_FORMAT)  # fmt: skip
    room = bytearray(11)
    places = {"a": memoryview(room)[6:11], "c": True}
    found = read(data, wanted=lambda name, _: places.get(name, False))
    assert found == [("a", b"first"), ("b", None), ("c", b"3")]
    assert room[6:] == b"first"


@pytest.mark.parametrize("form", FORMATS)
def test_a_cut_anywhere_is_told_and_what_came_before_is_whole(form):
    members = [(f"{i}/{'n' * 90 * (i % 2)}{i}", b"0", bytes([i]) * (300 * i)) for i in range(5)]
    data = tar_of(members, form=FORMATS[form])
    whole = by_tarfile(data)
    zeros = len(data) - len(data.rstrip(b"\0"))
    for cut in random.Random(0).sample(range(len(data) - zeros), 200):
        found = []
        file = io.BufferedReader(io.BytesIO(data[:cut]))
        with pytest.raises(tarfile.TarError):
            found.extend(regular_members(file, wanted=lambda *_: True))
        assert found == whole[: len(found)]


@settings(max_examples=150, deadline=None)
@given(members=MEMBERS)
def test_plain_headers_say_where_members_lie(members, tmp_path_factory):
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    plain = [each for each in members if each[1] == tarfile.REGTYPE]
    data = tar_of(plain, form=tarfile.GNU_FORMAT)
    path.write_bytes(data)
    with path.open("rb") as file:
        headers = list(itertools.islice(plain_headers(file), len(plain)))
    assert [(name, data[at : at + size]) for name, at, size in headers] == by_tarfile(data)


def test_a_flipped_bit_in_a_header_is_told():
    data = tar_of([("a", b"0", b"x" * 600), ("b", b"0", b"y")], form=tarfile.USTAR_FORMAT)
    second = 512 + 1024
    for at in range(0, 512, 7):
        damaged = bytearray(data)
        damaged[second + at] ^= 0x10
        if 148 <= at < 156 and bytes(damaged[second + 148 : second + 154]).strip(b"\0 ").isdigit():
            continue  # the checksum itself, in a byte that does not count
        with pytest.raises(tarfile.TarError, match=f"no tar header at byte {second}|unexpected"):
            read(bytes(damaged))
