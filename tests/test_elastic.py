"""A run killed outright at random moments and resumed on other topologies trains exactly once.

Each life is a group of real gloo processes with their loader workers, over the real loop, loader
and checkpoints. What it trained on is counted from pixels and kept in its checkpoints.
"""

import contextlib
import json
import logging
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import elastic_run
import numpy as np
import psutil
import pytest
import torch
from elastic_run import RUN
from ranks import context
from trees import NAMES, write_band

from ssl4eo_stream import StreamLoader
from ssl4eo_stream.bands import PRODUCTS
from ssl4eo_stream.shard.build import build
from ssl4eo_stream.train.checkpoint import Checkpoint, checkpoints, step_of
from ssl4eo_stream.train.loop import train

logger = logging.getLogger(__name__)

KILLS = 20
LOCATIONS = 401
STEPS_PER_EPOCH = LOCATIONS // RUN.batch_size
STEPS = RUN.epochs * STEPS_PER_EPOCH
TOPOLOGIES = ((4, 1), (1, 0), (2, 2), (3, 1), (4, 0), (1, 3), (3, 2), (2, 1))
"""(ranks, workers of each) of the lives in turn; the global batch of 12 divides by them all."""
MARK = "ELASTIC_TEST_OF"
"""Variable of the environment that tells the processes of this test from all others."""


@pytest.fixture(scope="module")
def counted_shards(tmp_path_factory):
    """Ragged shards of constant patches that tell their id: two bands, lossless."""
    folder = tmp_path_factory.mktemp("counted")
    ids = sorted(random.Random(3).sample(range(elastic_run.Counting().most_ids), LOCATIONS))
    product = PRODUCTS["s1"]
    for location in ids:
        home = folder / "tree" / "s1" / f"{location:07d}" / NAMES["s1"][0]
        for band, byte in zip(product.bands, divmod(location, 256), strict=True):
            pixels = np.full((264, 264), byte * band.scale + band.offset, np.float32)
            write_band(home / f"{band.name}.tif", pixels, compression="zlib")
    build(folder / "tree", folder / "s1", product="s1", codec="zstd", samples_per_shard=24,
          workers=0)  # fmt: skip
    return folder / "s1"


@pytest.fixture(scope="module")
def expected(counted_shards):
    """How often each id is seen by the end of every epoch of a run that nothing disturbs."""
    with StreamLoader(
        str(counted_shards), views=RUN.views, batch_size=RUN.batch_size, seed=RUN.seed
    ) as loader:
        epochs = [
            Counter(int(key) for batch in loader for key in batch.keys) for _ in range(RUN.epochs)
        ]
    for seen in epochs:
        assert set(seen.values()) == {1}
        assert len(seen) == LOCATIONS - LOCATIONS % RUN.batch_size
    assert len({frozenset(seen) for seen in epochs}) > 1  # the remainder is another every time
    return [sum(epochs[: i + 1], Counter()) for i in range(RUN.epochs)]


@pytest.fixture
def begun():
    """Processes that a test has begun: whatever becomes of it, they end with it."""
    processes = []
    yield processes
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(process.pid)
            for member in [*parent.children(recursive=True), parent]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()


def rank_of_a_life(rank, world_size, port, url, output, workers):
    """One rank: what torchrun would start, without the seconds that importing torch takes."""
    log = os.open(output / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
    os.environ[MARK] = str(output)
    torch.set_num_threads(1)
    train(replace(RUN, data=(str(url),), output=output, workers=workers), elastic_run.build)


def quiet_port():
    """A free port that the kernel gives to nobody else: it hands out those from 32768."""
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@dataclass(frozen=True, kw_only=True)
class Life:
    """A group of ranks, until it is done or killed."""

    ranks: list
    output: Path

    @classmethod
    def begin(cls, url, output, *, world_size, workers):
        port = quiet_port()
        ranks = [
            context.Process(
                target=rank_of_a_life,
                args=(rank, world_size, port, url, output, workers),
                daemon=True,
            )
            for rank in range(world_size)
        ]
        for rank in ranks:
            rank.start()
        return cls(ranks=ranks, output=output)

    def is_whole(self):
        return all(rank.is_alive() for rank in self.ranks)

    def kill(self, rng):
        """SIGKILL to the ranks, and every other time to their workers, in random order."""
        family = [psutil.Process(rank.pid) for rank in self.ranks if rank.is_alive()]
        if rng.random() < 0.5:
            family += [worker for rank in family for worker in rank.children(recursive=True)]
        rng.shuffle(family)
        for i, member in enumerate(family):
            if i == 1:
                time.sleep(rng.choice((0, 0, rng.uniform(0, 0.5))))  # the others may notice
            with contextlib.suppress(psutil.NoSuchProcess):  # it has noticed, and ended
                member.kill()
        self.end()

    def end(self):
        """Wait until nothing is left of it."""
        for rank in self.ranks:
            rank.join(timeout=200)
            assert rank.exitcode is not None
        deadline = time.monotonic() + 20
        while left := workers_of(self.output):
            assert time.monotonic() < deadline, f"loader workers outlive their ranks: {left}"
            time.sleep(0.02)


def workers_of(output):
    """Loader workers of this test that live, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(output):
                found.append(process.pid)
        except psutil.Error:  # it has just ended, or belongs to somebody else
            continue
    return found


def newest_step(output):
    return max((step_of(path) for path in checkpoints(output)), default=0)


def log_of(output):
    return (output / "log.txt").read_text()[-4000:]


def wait_for(step, output, *, alive):
    deadline = time.monotonic() + 200
    while newest_step(output) < step:
        assert alive(), log_of(output)
        assert time.monotonic() < deadline, log_of(output)
        time.sleep(0.005)


def check_exact(output, expected):
    """Every checkpoint at the end of an epoch counts exactly what the epochs held."""
    kept = {step_of(path): Checkpoint.read(path) for path in checkpoints(output)}
    for epoch, seen in enumerate(expected):
        model = kept[(epoch + 1) * STEPS_PER_EPOCH].model
        counts = {i: n for i, n in enumerate(model["seen"].tolist()) if n}
        assert counts == seen
        assert model["steps"] == (epoch + 1) * STEPS_PER_EPOCH
    lines = (output / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    assert not list(output.glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_twenty_times_on_changing_topologies(counted_shards, expected, tmp_path, begun):
    seed = int(os.environ.get("ELASTIC_SEED", random.SystemRandom().randrange(2**32)))
    logger.warning("ELASTIC_SEED=%d draws the same moments again", seed)
    rng = random.Random(seed)
    # Spread over the run, both ends of epochs among them; where a life got further than meant, the
    # next is killed while it starts.
    targets = [round((i + rng.random()) / KILLS * (STEPS - 8)) for i in range(KILLS - 2)]
    targets = sorted([*targets, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH])
    reached = []
    for target, (world_size, workers) in zip(targets, cycle(TOPOLOGIES), strict=False):
        life = Life.begin(counted_shards, tmp_path, world_size=world_size, workers=workers)
        begun += life.ranks
        if target > newest_step(tmp_path):
            wait_for(target, tmp_path, alive=life.is_whole)
            time.sleep(rng.uniform(0, 0.1))
        else:
            time.sleep(rng.uniform(0, 2))
        life.kill(rng)
        reached.append(newest_step(tmp_path))
    logger.warning("steps done at the kills: %s", reached)
    assert reached == sorted(reached)
    assert reached[-1] < STEPS, "the run was over before the last kill"
    assert len(set(reached)) > KILLS // 2
    life = Life.begin(counted_shards, tmp_path, world_size=4, workers=1)
    begun += life.ranks
    life.end()
    assert [rank.exitcode for rank in life.ranks] == [0] * 4, log_of(tmp_path)
    check_exact(tmp_path, expected)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_restarts_a_run_whose_rank_dies(counted_shards, expected, tmp_path, begun):
    """torchrun itself begins all ranks anew; a second torchrun, of other ranks, takes over."""

    def begin(world_size, workers):
        command = [
            str(Path(sys.executable).parent / "torchrun"), "--standalone", "--max-restarts", "1",
            "--nproc-per-node", str(world_size), str(Path(elastic_run.__file__)),
            "--data", str(counted_shards), "--output", str(tmp_path), "--workers", str(workers),
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1", MARK: str(tmp_path)}
        with (tmp_path / "log.txt").open("a") as log:
            begun.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return begun[-1]

    rng = random.Random(1)
    process = begin(4, 1)
    wait_for(20, tmp_path, alive=lambda: process.poll() is None)
    ranks = [
        child
        for child in psutil.Process(process.pid).children()
        if elastic_run.__file__ in child.cmdline()
    ]
    assert len(ranks) == 4
    rng.choice(ranks).kill()
    assert not psutil.wait_procs(ranks, timeout=60)[1]
    wait_for(45, tmp_path, alive=lambda: process.poll() is None)
    everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in everyone:
        member.kill()
    psutil.wait_procs(everyone, timeout=20)
    process.wait()
    assert not workers_of(tmp_path)
    assert begin(3, 2).wait(timeout=200) == 0, log_of(tmp_path)
    assert not workers_of(tmp_path)
    check_exact(tmp_path, expected)
