"""From epoch to epoch: workers go on by themselves, wherever iterators begin and end."""

import time
from pathlib import Path

import pytest
import torch
from servers import http_server

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.augment.views import MoCoViews

VIEWS = MoCoViews(size=32)


def make(url, **changes):
    return StreamLoader(str(url), **({"views": VIEWS, "batch_size": 3, "seed": 5} | changes))


def epoch_of(loader):
    return [(batch.keys, batch.dates.tolist(), [view.clone() for view in batch.views])
            for batch in loader]  # fmt: skip


def same(first, second):
    return len(first) == len(second) and all(
        a[:2] == b[:2] and all(torch.equal(x, y) for x, y in zip(a[2], b[2], strict=True))
        for a, b in zip(first, second, strict=True)
    )


def test_workers_begin_the_next_epoch_unasked(shards):
    with http_server(shards) as server:

        def reads():
            return sum(n for path, n in server.requests.items() if path.endswith(".tar"))

        with make(server.url, workers=0) as loader:
            list(loader)
        one_epoch = reads()
        server.requests.clear()
        with make(server.url, workers=1) as loader:  # reads what none would, in the same order
            list(loader)
            until = time.monotonic() + 30
            while reads() <= one_epoch:
                assert time.monotonic() < until, "nobody reads ahead"
                time.sleep(0.01)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [3, 16])
def test_epochs_one_after_the_other_are_those_begun_afresh(shards, workers, batch_size):
    """Also where an epoch is one batch, and most workers have nothing to do."""
    with make(shards, workers=workers, batch_size=batch_size) as loader:
        running = [epoch_of(loader) for _ in range(4)]
        for epoch in (3, 1, 2, 0):
            loader.epoch = epoch
            assert same(epoch_of(loader), running[epoch]), f"epoch {epoch}"


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_read_ahead_is_let_go_when_the_place_changes(shards, workers):
    with make(shards, workers=workers) as loader:
        first = epoch_of(loader)
        place = loader.state_dict()
        second = epoch_of(loader)
        loader.epoch = 0
        assert same(epoch_of(loader), first)
        next(iter(loader))
        loader.load_state_dict(place)
        assert same(epoch_of(loader), second)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_place_at_the_end_of_an_epoch_has_no_batch_left(shards, workers):
    with make(shards, workers=workers) as loader:
        batches = iter(loader)
        for _ in range(len(loader)):
            next(batches)
        place = loader.state_dict()
        assert list(batches) == []
        second = epoch_of(loader)
    with make(shards, workers=workers) as loader:
        loader.load_state_dict(place)
        assert epoch_of(loader) == []
        assert loader.epoch == 1
        assert same(epoch_of(loader), second)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterator_that_another_has_overtaken_says_so(shards, workers):
    with make(shards, workers=workers) as loader:
        old, new = iter(loader), iter(loader)
        next(old)
        next(new)
        with pytest.raises(RuntimeError, match="has another iterator by now"):
            next(old)
        loader.epoch = 3
        with pytest.raises(RuntimeError, match="set to another place"):
            next(new)


def held(pid):
    return [len(list(Path(f"/proc/{pid}/{what}").iterdir())) for what in ("fd", "task")]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_open_files_and_threads_do_not_pile_up(shards):
    with http_server(shards) as server, make(server.url, workers=2) as loader:
        counts = []
        for _ in range(8):
            list(loader)
            counts.append([sum(held(pid)) for pid in loader.worker_pids])
    most = [max(epoch) for epoch in counts]
    # connections are kept and threads come and go, hence not to the last one
    assert max(most[4:]) <= max(most[1:4]) + 4, counts
