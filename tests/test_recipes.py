"""Every recipe: its form, its help, and two steps on a CPU by flags alone."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from ssl4eo_stream.train.run import from_command_line, tell

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
SMALL = [
    "--views.size", "64", "--batch-size", "8", "--workers", "0", "--device", "cpu",
    "--log-every", "1",
]  # fmt: skip
DINO = [
    "--method.prototypes", "64", "--method.hidden", "32", "--method.bottleneck", "16",
    "--views.local-size", "32", "--views.local-crops", "2",
]  # fmt: skip
TINY = ["--backbone", "vit_tiny_patch16"]
METHOD = {
    "moco_rn50": ["--method.queue", "64", "--method.batch-norm-groups", "2"],
    "moco_vits16": [*TINY, "--method.dim", "16", "--method.hidden", "32"],
    "dino_rn50": ["--backbone", "resnet18", *DINO],
    "dino_vits16": [*TINY, *DINO],
    "mae_vits16": [*TINY, "--method.decoder-dim", "32", "--method.decoder-depth", "1",
                   "--method.decoder-heads", "2"],
    "data2vec_vits16": [*TINY, "--method.masked", "9", "--method.smallest-block", "2",
                        "--method.largest-block", "9"],
}  # fmt: skip
recipes = pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)


def load(recipe):
    spec = importlib.util.spec_from_file_location(f"recipe_{recipe.stem}", recipe)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch(command, **environment):
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_there_are_six_recipes():
    assert METHOD.keys() == {recipe.stem for recipe in RECIPES}


@recipes
def test_form(recipe):
    text = recipe.read_text()
    assert len(text.splitlines()) <= 60
    lines = ast.get_docstring(ast.parse(text)).splitlines()
    for label, pattern in (
        ("Run", rf"torchrun --nproc-per-node \d+ recipes/{recipe.name} --data \S+ --output \S+"),
        ("Target", r".*\d.*\(.*(arXiv|table).*\)"),
        ("Ours", r"not yet measured|.*\d.*"),
    ):
        (line,) = [line for line in lines if line.startswith(f"{label}: ")]
        assert re.fullmatch(pattern, line.removeprefix(f"{label}: ")), line


@recipes
def test_its_run_command_parses(recipe):
    run_line = re.search(r"^Run: (.*)$", recipe.read_text(), re.MULTILINE)[1]
    arguments = run_line.split(recipe.name)[1].split()
    run = from_command_line(load(recipe).RUN, arguments=arguments)
    assert run.data == (arguments[1],)
    assert run.output == Path(arguments[3])
    assert run.name == recipe.stem


@recipes
def test_help(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as stopped:
        from_command_line(load(recipe).RUN, arguments=["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for words in ("--data", "--optimizer.lr", "--views.size", "Passes over all locations"):
        assert words in text


def flags(recipe, *, data, output):
    return ["--data", str(data), "--output", str(output), *SMALL, *METHOD[recipe]]


def recorded_steps(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@recipes
def test_two_steps(recipe, shards, tmp_path):
    arguments = flags(recipe.stem, data=shards, output=tmp_path)
    launch([sys.executable, str(recipe), *arguments, "--max-steps", "2"])
    assert recorded_steps(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere: there is no such folder"),
        (["--probe.eurosat", "nowhere.tar"], "nowhere.tar is not there"),
        (["--backbone", "vit_small_patch16"], "--backbone vit_small_patch16 is no ResNet"),
    ],
)
def test_what_a_user_can_mend_is_one_line(arguments, message, shards, tmp_path):
    given = flags("moco_rn50", data=shards, output=tmp_path)
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes/moco_rn50.py"), *given, *arguments],
        check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert message in done.stderr.splitlines()[-1]


def test_a_bug_keeps_its_traceback(capsys):
    try:
        int("x")
    except ValueError as error:
        tell(ValueError, error, error.__traceback__)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_and_on_with_fewer_ranks(shards, tmp_path):
    recipe = str(ROOT / "recipes/moco_rn50.py")
    arguments = flags("moco_rn50", data=shards, output=tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch([*torchrun, "--nproc-per-node", "2", recipe, *arguments, "--max-steps", "1"])
    assert "goes on from step 1" in launch([sys.executable, recipe, *arguments, "--max-steps", "3"])
    assert recorded_steps(tmp_path) == [1, 2, 3]


def can_compile():
    """Return whether torch.compile can make kernels for a CPU here."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return bool(shutil.which("c++") or shutil.which("g++")) and headers.exists()


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(), reason="torch.compile needs a C++ compiler and Python.h")
def test_compiled_steps_are_the_same(shards, tmp_path):
    losses = []
    for choice in ("on", "off"):
        arguments = flags("mae_vits16", data=shards, output=tmp_path / choice)
        launch([sys.executable, str(ROOT / "recipes/mae_vits16.py"), *arguments,
                "--max-steps", "3", "--compile", choice])  # fmt: skip
        lines = (tmp_path / choice / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


COMPLETE = ["--data", "s3://bucket/s2c", "--output", "runs/x"]


def test_flags_reach_their_fields():
    run = from_command_line(
        load(ROOT / "recipes/moco_rn50.py").RUN,
        arguments=[*COMPLETE, "--optimizer.lr", "0.1", "--views.size", "96", "--resume", "a/b.pt",
                   "--method.queue", "512", "--max-steps", "7", "--precision", "fp32"],
    )  # fmt: skip
    assert (run.optimizer.lr, run.views.size, run.method.queue) == (0.1, 96, 512)
    assert (run.resume, run.max_steps, run.precision) == (Path("a/b.pt"), 7, "fp32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*COMPLETE, "--optimiser.lr", "0.1"], "--optimizer.lr"),
        (["--output", "runs/x"], "--data"),
        ([*COMPLETE, "--precision", "fp8"], "fp8"),
    ],
)
def test_wrong_flags_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        from_command_line(load(ROOT / "recipes/moco_rn50.py").RUN, arguments=arguments)
    assert stopped.value.code != 0
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--batch-size", "0", "--batch-size is 0; it must be at least 1"),
        ("--log-every", "0", "--log-every is 0"),
        ("--schedule.warmup-epochs", "100", "leaves nothing of --epochs 100"),
        ("--method.temperature", "0", "--method.temperature is 0"),
    ],
)
def test_wrong_values_are_named(flag, value, message, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        from_command_line(
            load(ROOT / "recipes/moco_rn50.py").RUN, arguments=[*COMPLETE, flag, value]
        )
    assert message in capsys.readouterr().err


def test_the_batch_is_shared_by_the_ranks():
    run = load(ROOT / "recipes/moco_rn50.py").RUN
    assert [run.batch_per_rank(ranks) for ranks in (1, 2, 8)] == [256, 128, 32]
    with pytest.raises(ValueError, match=r"divide by 6 ranks. .* --batch-size 258"):
        run.batch_per_rank(6)
