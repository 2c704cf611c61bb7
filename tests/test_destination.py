"""Shards on object storage: the bytes of a folder's, whole or not there, whatever fails."""

import shutil
import socket
import threading
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import obstore
import pytest
from servers import BUCKET, KEY, SECRET, azure_server, azurite_binary
from test_archive import files_of, packed
from trees import write_tree

from ssl4eo_stream import store as store_module
from ssl4eo_stream.commands.shard import main
from ssl4eo_stream.errors import ShardError, SourceError, StorageError
from ssl4eo_stream.retry import RetryPolicy
from ssl4eo_stream.shard import destination
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.shard.destination import Destination
from ssl4eo_stream.shard.stats import stats
from ssl4eo_stream.store import Store

OPTIONS = {"product": "s1", "codec": "jpeg:75", "samples_per_shard": 4}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Six locations on two dates, in shards of up to four."""
    folder = tmp_path_factory.mktemp("tree")
    write_tree(folder, "s1", (0, 1, 3, 4, 6, 9), dates=2)
    return folder


@pytest.fixture(scope="module")
def expected(tree, tmp_path_factory):
    """What a build into a folder makes: name -> bytes."""
    dest = tmp_path_factory.mktemp("expected")
    build(tree, dest, workers=0, **OPTIONS)
    return {path.name: path.read_bytes() for path in dest.iterdir()}


@pytest.fixture
def bucket(s3, monkeypatch, tmp_path):
    """A folder of a bucket, empty, that is written to with the environment's credentials."""
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    yield f"s3://{BUCKET}/{tmp_path.name}"
    destination._store.cache_clear()


def everything(url):
    """Name -> bytes of all objects below a URL."""
    handle = Store.open(url).handle
    found = [each["path"] for page in obstore.list(handle) for each in page]
    return {path: bytes(obstore.get(handle, path).bytes()) for path in found}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bucket_gets_what_a_folder_gets(tree, expected, bucket, workers):
    done = build(tree, bucket, workers=workers, **OPTIONS)
    assert everything(bucket) == expected
    assert done.built == 3
    assert stats(bucket)[0] == done.manifest


@pytest.mark.skipif(not azurite_binary(), reason="npm install azurite; set AZURITE")
def test_azure_too(tree, expected, monkeypatch, tmp_path):
    (tmp_path / "nothing").mkdir()
    with azure_server(tmp_path / "nothing", tmp_path) as running:
        for name, value in running.options.items():
            monkeypatch.setenv(f"AZURE_STORAGE_{name.upper()}", value)
        build(tree, running.url, workers=0, **OPTIONS)
        assert everything(running.url) == expected
    destination._store.cache_clear()


def test_an_archive_goes_to_a_bucket_by_way_of_scratch(tree, expected, bucket, tmp_path, caplog):
    file = tmp_path / "s1.tar"
    file.write_bytes(packed(tree, files_of(tree, order="locations"), product="s1"))
    with pytest.raises(StorageError, match="--scratch DIR"):
        build(file, bucket, workers=0, **OPTIONS)
    build(file, bucket, workers=0, scratch=tmp_path / "scratch", **OPTIONS)
    assert everything(bucket) == expected
    assert list((tmp_path / "scratch").iterdir()) == []
    build(file, bucket, workers=0, **OPTIONS | {"scratch": tmp_path / "scratch"})
    assert "is finished; the archive is not read again" in caplog.text


def test_a_build_that_stopped_goes_on(tree, expected, bucket, tmp_path):
    broken = shutil.copytree(tree, tmp_path / "broken")
    band = next((broken / "s1" / "0000006").glob("*/VH.tif"))
    good = band.read_bytes()
    band.write_bytes(good[:99])
    with pytest.raises(SourceError, match=r"VH\.tif"):
        build(broken, bucket, workers=0, **OPTIONS)
    left = everything(bucket)
    assert "manifest.json" not in left
    assert left["s1-000000.tar"] == expected["s1-000000.tar"]
    assert "s1-000001.tar" not in left
    with pytest.raises(ShardError, match=r"is of shards with codec jpeg:75, and codec zstd was"):
        build(tree, bucket, workers=0, **OPTIONS | {"codec": "zstd"})
    band.write_bytes(good)
    assert build(broken, bucket, workers=0, **OPTIONS).kept == 1
    assert everything(bucket) == expected


def test_a_finished_data_set_is_kept_and_what_left_the_source_goes(tree, bucket, tmp_path):
    smaller = shutil.copytree(tree, tmp_path / "smaller")
    build(smaller, bucket, workers=0, **OPTIONS)
    shutil.rmtree(smaller / "s1" / "0000009")
    done = build(smaller, bucket, workers=0, **OPTIONS)
    assert (done.built, done.kept) == (0, 2)
    assert "s1-000002.tar" not in everything(bucket)


def test_an_object_of_many_parts_is_whole(bucket, monkeypatch):
    monkeypatch.setattr(store_module, "ONE_REQUEST_BYTES", 1 << 20)
    monkeypatch.setattr(store_module, "PART_BYTES", 5 << 20)
    content = bytes(range(256)) * (3 << 14)
    with Destination.at(bucket).write("x.tar") as file:
        file.write(content)
    assert everything(bucket) == {"x.tar": content}


def test_what_goes_wrong_in_between_leaves_nothing(bucket):
    with pytest.raises(KeyboardInterrupt), Destination.at(bucket).write("x.tar") as file:  # noqa: PT012
        file.write(b"half")
        raise KeyboardInterrupt
    assert everything(bucket) == {}


@contextmanager
def cutting(endpoint, *, times, after):
    """Forward connections, and break off the first ones behind so many bytes of what is sent."""
    target = urlsplit(endpoint)
    left, lock = [times], threading.Lock()

    def pump(source, sink, limit):
        with source:
            with suppress(OSError):
                while limit > 0 and (data := source.recv(1 << 16)):
                    sink.sendall(data)
                    limit -= len(data)
            for each in (source, sink):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def answer(client):
        server = socket.create_connection((target.hostname, target.port))
        with lock:
            limit = after if left[0] > 0 else 1 << 60
            left[0] -= 1
        threading.Thread(target=pump, args=(client, server, limit), daemon=True).start()
        threading.Thread(target=pump, args=(server, client, 1 << 60), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def listen():
            with suppress(OSError):
                while True:
                    answer(listening.accept()[0])

        threading.Thread(target=listen, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_cut_upload_is_sent_again(bucket, s3, monkeypatch, tmp_path):
    content = bytes(range(256)) * (1 << 14)
    (tmp_path / "x").write_bytes(content)
    with cutting(s3.endpoint, times=2, after=1 << 20) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = Store.open(bucket, retry=RetryPolicy(first_wait_seconds=0.01))
        with (tmp_path / "x").open("rb") as file:
            store.write("x.tar", file)
        assert store.counters.retries == 2
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert everything(bucket) == {"x.tar": content}


def test_an_upload_that_never_succeeds_is_told_and_leaves_nothing(
    bucket, s3, monkeypatch, tmp_path
):
    (tmp_path / "x").write_bytes(bytes(4 << 20))
    with cutting(s3.endpoint, times=10**9, after=1 << 20) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = Store.open(bucket, retry=RetryPolicy(give_up_seconds=1.0))
        with (
            (tmp_path / "x").open("rb") as file,
            pytest.raises(StorageError, match=rf"Cannot write {bucket}/x\.tar: gave up") as error,
        ):
            store.write("x.tar", file)
    assert SECRET not in str(error.value)
    assert KEY not in str(error.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert everything(bucket) == {}


def test_a_bucket_that_is_not_there_is_named(tree, bucket, capsys):
    missing = bucket.replace(BUCKET, "nowhere")
    assert main(["build", str(tree), missing, "--product", "s1", "--workers", "1"]) == 1
    error = capsys.readouterr().err
    assert "nowhere" in error
    assert "404" in error


def test_the_web_is_not_written_to(tree):
    with pytest.raises(StorageError, match=r"https://host/x can't be written to\. Give a path"):
        build(tree, "https://host/x", workers=0, **OPTIONS)
