"""ssl4eo-bench as people run it: what it says, its exit codes, and its arithmetic over windows."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl4eo_stream.commands.bench import main
from ssl4eo_stream.commands.bench_loader import Window, live_line, together
from ssl4eo_stream.commands.bench_shuffle import places_of
from ssl4eo_stream.shard.manifest import INDEX, IndexRow, point_wkb
from ssl4eo_stream.stream.clock import Clock
from ssl4eo_stream.stream.mixing import unit_vectors

COMMAND = [sys.executable, "-m", "ssl4eo_stream.commands.bench"]
RECIPE = '''
"""A recipe as people write them, with a network that takes no time."""
from oracles.moco import TinyConvNet
from ssl4eo_stream.augment.views import MoCoViews
from ssl4eo_stream.methods.moco import MoCo, MoCoConfig
from ssl4eo_stream.train.optimizer import Optimizer
from ssl4eo_stream.train.run import Run
from ssl4eo_stream.train.schedule import Schedule

RUN = Run(name="tiny", views=MoCoViews(size=32), optimizer=Optimizer(lr=0.1),
          method=MoCoConfig(dim=8, queue=32, momentum=0.9, batch_norm_groups=2),
          schedule=Schedule(every="step"), batch_size=4, epochs=1)

def build(run, channels):
    return MoCo(TinyConvNet(channels), run.method)
'''


@pytest.fixture(autouse=True)
def handlers():
    """The command takes SIGTERM for Ctrl-C; the tests' own process goes back to what it was."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(RECIPE)
    return path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_loader_says_how_fast_and_what_bounds_it(shards, tmp_path, capsys):
    file = tmp_path / "new" / "result.json"
    assert run("loader", shards, "--batch-size", 4, "--workers", 0, "--seconds", 0.5,
               "--step-milliseconds", 1, "--select.bands", "B4", "--json", file) == 0  # fmt: skip
    numbers, advice = capsys.readouterr().out.splitlines()
    assert " samples/s, " in numbers
    assert "decode " in numbers
    result = json.loads(file.read_text())
    assert advice.startswith(f"{result['verdict']} (the trainer waits ")
    assert advice.endswith(result["advice"])
    assert result["samples_per_second"] > 0
    assert result["products"] == [{"product": "s2c", "codec": "jpeg:75"}]
    assert result["url"] == shards.as_uri()
    assert {"numpy", "obstore"} <= result["versions"].keys()
    working = [value for name, value in result.items() if name.startswith("share_")]
    assert sum(working) - result["share_idle"] == pytest.approx(1, abs=0.01)


def exact(clocks, seconds, waits):
    """Statistics of several windows from the clocks themselves."""
    whole = Clock()
    for clock in clocks:
        whole.add(clock)
    return whole.stats(elapsed_seconds=sum(seconds), wait_seconds=sum(waits))


windows = st.lists(
    st.tuples(
        st.floats(0.5, 3),  # seconds of the window
        st.floats(0, 1),  # share of it that the trainer waits
        st.floats(0, 0.9),  # share that the reader idles
        st.floats(0.1, 0.9),  # share of its work that is decoding
        st.integers(1, 50),  # samples
        st.integers(0, 5),  # retries
    ),
    min_size=1,
    max_size=6,
)


@given(windows=windows)
def test_windows_together_are_one_long_window(windows):
    """Where a reader is either busy or idle all the time, the merged numbers are exact."""
    clocks, seconds, waits = [], [], []
    for length, wait, idle, decode, samples, retries in windows:
        busy = length * (1 - idle)
        stages = {"idle": length * idle, "decode": busy * decode, "blur": busy * (1 - decode)}
        clocks.append(
            Clock(seconds=stages, samples=samples, num_bytes=samples * 1000, retries=retries)
        )
        seconds.append(length)
        waits.append(wait * length)
    each = zip(clocks, seconds, waits, strict=True)
    merged = together(
        [Window(seconds=s, stats=c.stats(elapsed_seconds=s, wait_seconds=w)) for c, s, w in each]
    )
    assert merged == pytest.approx(exact(clocks, seconds, waits))


def test_a_window_without_batches_dilutes_no_share():
    clock = Clock(seconds={"decode": 1.0}, samples=4, num_bytes=400)
    merged = together(
        [
            Window(seconds=2.0, stats=Clock().stats(elapsed_seconds=2.0, wait_seconds=2.0)),
            Window(seconds=2.0, stats=clock.stats(elapsed_seconds=2.0, wait_seconds=1.0)),
        ]
    )
    assert merged["share_decode"] == 1
    assert merged["samples_per_second"] == 1
    assert merged["wait_share"] == 0.75
    assert merged["bytes_per_sample"] == 100


def test_the_live_line():
    clock = Clock(seconds={"fetch": 3.0, "decode": 1.0}, samples=10, num_bytes=2_000_000)
    line = live_line(clock.stats(elapsed_seconds=2.0, wait_seconds=1.0), retries=3.0)
    assert line == "5.0 samples/s, 1.0 MB/s, 3 retries, fetch-bound"
    line = live_line(Clock().stats(elapsed_seconds=2.0, wait_seconds=2.0), retries=0.0)
    assert line == "0.0 samples/s, 0.0 MB/s, 0 retries, no batch yet"


def test_headspace_trains_on_both_and_leaves_nothing(shards, recipe, tmp_path, capsys):
    file, output = tmp_path / "result.json", tmp_path / "run"
    assert run("headspace", recipe, "--data", shards, "--steps", 5, "--workers", 0, "--device",
               "cpu", "--output", output, "--json", file) == 0  # fmt: skip
    numbers, advice = capsys.readouterr().out.splitlines()
    result = json.loads(file.read_text())
    assert " samples/s on the stream, " in numbers
    assert advice == f"{result['verdict']}. {result['advice']}"
    assert (result["recipe"], result["steps"], result["batch_size"]) == ("tiny.py", 5, 4)
    assert len(result["ratios"]) == 5
    assert result["ratio"] == sorted(result["ratios"])[2]
    assert 0 <= result["wait_share"] <= 1
    assert not output.exists()


def test_shuffle_needs_no_pixels(shards, tmp_path, capsys):
    for name in ("manifest.json", INDEX):
        (tmp_path / name).write_bytes((shards / name).read_bytes())
    file = tmp_path / "result.json"
    assert run("shuffle", tmp_path, "--batch-size", 2, "--world-size", 3, "--workers", 1, "--json",
               file) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert out.endswith(
        "16 locations: an epoch shows 0 twice and leaves 4 out; chunks of 32, blocks of 16 "
        "chunks.\n"
    )
    scores = json.loads(file.read_text())["scores"]
    assert set(scores) == {
        f"{scope}: {name}"
        for scope in ("batch", "step")
        for name in (
            "mean distance in the shards", "median distance in the shards", "distinct shards",
            "distinct chunks", "distinct blocks", "pairs that meet again next epoch",
        )
    }  # fmt: skip
    # Two shards of eight, one chunk each, in one block.
    assert scores["step: distinct blocks"]["ratio"] == 1
    assert scores["batch: distinct chunks"] == scores["batch: distinct shards"]
    assert scores["batch: distinct shards"]["perfect"] == pytest.approx(1 + 8 / 15, abs=1e-4)
    assert scores["step: mean distance in the shards"]["perfect"] == pytest.approx(
        17 / 48, abs=1e-4
    )
    assert all(score in out for score in scores)


def test_places_are_those_of_the_index():
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    lon, lat = np.array([10.0, -170.5, 0.25]), np.array([50.0, -33.0, 0.0])
    assert "lon" in IndexRow.__annotations__
    points = [point_wkb(x, y) for x, y in zip(lon.tolist(), lat.tolist(), strict=True)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"geometry": pa.array(points, pa.binary())}), sink)
    assert places_of(sink.getvalue()) == pytest.approx(unit_vectors(lon, lat))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["loader", "{tmp}/nowhere"], 1, "no such folder"),
        (["loader", "{tmp}"], 1, "manifest.json"),
        (["loader", "{shards}", "--batch-size", "17"], 2, "fewer"),
        (["shuffle", "{tmp}/nowhere"], 1, "no such folder"),
        (["shuffle", "{shards}", "--batch-size", "17"], 2, "batch_size 17"),
        (["headspace", "{tmp}/nothing.py", "--data", "{shards}"], 2, "no such Python file"),
        (["headspace", "{tmp}/empty.py", "--data", "{shards}"], 2, "no RUN and build"),
        (["headspace", "{tmp}/tiny.txt"], 2, "must be a Python file"),
        (["headspace", "{recipe}", "--data", "{tmp}/nowhere"], 1, "no such folder"),
        (["headspace", "{recipe}", "--data", "x", "--steps", "1"], 2, "--steps is 1; give 5"),
    ],
)
def test_errors_are_one_message_on_stderr(
    shards, recipe, tmp_path, capsys, arguments, code, message
):
    (tmp_path / "empty.py").touch()
    places = {"shards": shards, "tmp": tmp_path, "recipe": recipe}
    assert run(*(argument.format(**places) for argument in arguments)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ssl4eo-bench: ")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loader"], "URL is missing"),
        (["loader", "x", "--secnds", "3"], "--seconds"),
        (["loader", "x", "--seconds", "0"], "--seconds is 0.0"),
        (["shuffle", "x", "--batch-size", "1"], "--batch-size is 1; give 2 or more"),
        (["headspace"], "RECIPE.py"),
        (["headspace", "{recipe}"], "--data"),
        (["headspace", "{recipe}", "--data", "x", "--optimiser.lr", "1"], "--optimizer.lr"),
    ],
)
def test_wrong_flags_exit_with_2(recipe, capsys, monkeypatch, arguments, message):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stopped:
        run(*(argument.format(recipe=recipe) for argument in arguments))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["loader"], "ssl4eo-bench loader s3://bucket/ssl4eo/s2c --workers 8"),
        (["shuffle"], "ssl4eo-bench shuffle s3://bucket/ssl4eo/s2c --batch-size 64"),
        (["headspace"], "ssl4eo-bench headspace recipes/moco_rn50.py --data"),
        (["headspace", "{recipe}"], "--method.queue"),
    ],
)
def test_help_teaches(recipe, capsys, monkeypatch, arguments, words):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stopped:
        run(*(argument.format(recipe=recipe) for argument in arguments), "--help")
    assert stopped.value.code == 0
    assert words in capsys.readouterr().out


@pytest.mark.slow
def test_lines_come_while_it_streams_and_ctrl_c_ends_it(shards):
    command = [*COMMAND, "loader", str(shards), "--workers", "1", "--batch-size", "4"]
    # A shell's background job ignores SIGINT, and so would its child; a handler is not inherited.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    job = subprocess.Popen([*command, "--seconds", "600"], stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with job:
        line = job.stderr.readline()
        job.send_signal(signal.SIGINT)
        _, rest = job.communicate(timeout=60)
    assert line.startswith("streaming: ")
    assert line.rstrip().endswith("-bound")
    assert rest.endswith("ssl4eo-bench: stopped.\n")
    assert job.returncode == 130
