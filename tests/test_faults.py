"""Storage that fails in every way we know: what is survived, exactly, and how the rest ends."""

import logging
import re
import threading
import time
from dataclasses import replace
from itertools import chain

import pytest
import torch
from fault_cases import ENDED, IMPATIENT, SURVIVED
from fault_server import FOREVER, Fault, http_server

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.errors import ShardError, StorageError
from ssl4eo_stream.store import Store
from ssl4eo_stream.stream.setup import Reading

DATA = bytes(range(251)) * 400  # no period that a wrong offset could hide behind
START, END = 1_000, 100_000
ERRORS = {"StorageError": StorageError, "ShardError": ShardError}


@pytest.fixture
def server(tmp_path):
    (tmp_path / "a.tar").write_bytes(DATA)
    with http_server(tmp_path) as running:
        yield running


def opened(server, over="http"):
    if over == "http":
        return Store.open(server.url, retry=IMPATIENT)
    options = {"endpoint": server.url, "skip_signature": True}
    return Store.open("s3://ssl4eo", options=options, retry=IMPATIENT)


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def visible(caplog):
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("over", ["http", "s3"])
@named([case for case in SURVIVED if case.checked])
def test_a_read_survives(server, caplog, case, over):
    store = opened(server, over)
    case.order(server, only="a.tar")
    data = store.read_range("a.tar", start=START, end=END)
    assert bytes(data) == DATA[START:END]
    counts = store.counters.take()
    assert (counts.retries, counts.requests) == (case.retries, case.retries + 1)
    assert counts.bytes == END - START  # nothing came twice
    assert len(visible(caplog)) == case.retries
    for at, record in enumerate(visible(caplog)):
        assert f"{store.url}/a.tar, bytes {START}-{END}: attempt {at + 1}" in record.getMessage()


@pytest.mark.parametrize("over", ["http", "s3"])
@named([case for case in ENDED if case.checked])
def test_a_read_ends_with_a_message(server, case, over):
    store = opened(server, over)
    case.order(server, only="a.tar")
    with pytest.raises(StorageError, match=case.message) as caught:
        store.read_range("a.tar", start=START, end=END)
    assert f"{store.url}/a.tar, bytes {START}-{END}" in str(caught.value)
    counts = store.counters.take()
    assert counts.requests == counts.retries + 1 == server.requests["a.tar"]
    assert counts.requests == case.attempts if case.attempts < 3 else counts.requests >= 3


def test_a_cut_body_goes_on_at_the_exact_byte(server):
    """What the client had collected when the first attempt broke off is lost, and no byte later."""
    server.faults += [
        Fault("cut", after=1234),
        Fault("cut", after=1234),
        Fault("cut", after=50_000),
    ]
    assert opened(server).read("a.tar") == DATA
    length = len(DATA)
    assert [asked for _, asked in server.ranges] == [
        "", f"bytes=0-{length - 1}", f"bytes=1234-{length - 1}", f"bytes=51234-{length - 1}",
    ]  # fmt: skip


def test_progress_pays_for_patience(server):
    """Far more failures than fit into the time without progress, each with some bytes: it ends."""
    server.faults.append(Fault("cut", times=60, after=1500))
    store = opened(server)
    assert store.read_range("a.tar", start=0, end=len(DATA)) == DATA
    assert store.counters.retries == 60


def test_head_is_asked_for_again_and_names_the_version(server):
    store = opened(server)
    server.faults.append(Fault("status", times=2))
    info = store.head("a.tar")
    assert (info.size, info.etag) == (len(DATA), f'"{len(DATA)}"')
    assert store.counters.take().retries == 2
    with pytest.raises(StorageError, match=r"b\.tar.*404"):
        store.head("b.tar")


def test_warnings_are_held_back_but_counted(server, caplog):
    store = Store.open(server.url, retry=replace(IMPATIENT, warn_seconds=0.5))
    server.faults.append(Fault("status", times=FOREVER))
    with (
        caplog.at_level(logging.DEBUG, logger="ssl4eo_stream.retry"),
        pytest.raises(StorageError, match="gave up"),
    ):
        store.read("a.tar")
    told = [record.getMessage() for record in visible(caplog)]
    everything = [r for r in caplog.records if r.name == "ssl4eo_stream.retry"]
    assert len(everything) == store.counters.retries
    assert 2 <= len(told) < len(everything) / 2
    held_back = sum(int(found[1]) for line in told if (found := re.search(r"\((\d+) more", line)))
    last = max(i for i, record in enumerate(everything) if record.levelno >= logging.WARNING)
    assert held_back == last + 1 - len(told)


def test_a_stopped_store_tries_no_more(server):
    store = Store.open(server.url)
    server.faults.append(Fault("status", times=FOREVER))
    errors = []

    def read():
        try:
            store.read("a.tar")
        except StorageError as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while store.counters.retries < 2:
        time.sleep(0.01)
    store.stop()
    thread.join(timeout=30)
    assert "gave up after" in str(errors[0])


def epoch_of(url):
    reading = Reading(
        connections=1, retry=IMPATIENT
    )  # so that the fault meets the request that it is meant for
    with StreamLoader(
        str(url), views=MoCoViews(size=16), batch_size=4, seed=5, reading=reading
    ) as loader:  # fmt: skip
        batches = [(b.keys, b.dates.clone(), [v.clone() for v in b.views]) for b in loader]
        return batches, loader.stats()


@pytest.fixture(scope="module")
def undisturbed(shards):
    return epoch_of(shards)[0]


@named(SURVIVED)
def test_an_epoch_survives(http, undisturbed, case):
    case.order(http, only=".tar")
    batches, stats = epoch_of(http.url)
    assert sorted(key for keys, *_ in batches for key in keys) == [f"{i:07d}" for i in range(16)]
    for (keys, dates, views), (keys_, dates_, views_) in zip(batches, undisturbed, strict=True):
        assert keys == keys_
        assert torch.equal(dates, dates_)
        assert all(torch.equal(a, b) for a, b in zip(views, views_, strict=True))
    assert stats["retries"] == case.retries


@named(ENDED)
def test_an_epoch_ends_with_a_message(http, case):
    case.order(http, only="s2c-000001.tar")
    with pytest.raises(ERRORS[case.kind], match=case.message) as caught:
        epoch_of(http.url)
    assert "s2c-000001.tar" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_before_the_first_batch(http, undisturbed, workers):
    """Manifest and index come through the same door; so do the workers' reads."""
    http.faults += [Fault("status", times=2, only="json"), Fault("cut", only="parquet"),
                    Fault("cut", times=2, only=".tar")]  # fmt: skip
    with StreamLoader(
        http.url, views=MoCoViews(size=16), batch_size=4, seed=5, workers=workers
    ) as loader:  # fmt: skip
        keys = [batch.keys for batch in loader]
        assert loader.stats()["retries"] >= 2
    assert keys == [batch[0] for batch in undisturbed]
    assert sorted(chain(*keys)) == [f"{i:07d}" for i in range(16)]


def test_an_epoch_over_every_kind_of_storage(served, undisturbed):
    with StreamLoader(
        served.url, views=MoCoViews(size=16), batch_size=4, seed=5,
        storage_options=served.options or None,
    ) as loader:  # fmt: skip
        for (keys, dates, views), batch in zip(undisturbed, loader, strict=True):
            assert batch.keys == keys
            assert torch.equal(batch.dates, dates)
            assert all(torch.equal(a, b) for a, b in zip(batch.views, views, strict=True))
