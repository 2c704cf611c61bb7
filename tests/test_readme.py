"""The README is true: its map is the code, its commands exist and run."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from trees import write_tree

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
MAPPED = ("ssl4eo_stream", "recipes", "tools", "benchmarks")


def summary_of(path):
    """First line of a file's docstring or, in a shell script, of its comment."""
    text = path.read_text(encoding="utf-8")
    if text.startswith(("#!", "#")):
        return next(line[2:] for line in text.splitlines() if line.startswith("# "))
    return (ast.get_docstring(ast.parse(text)) or "").splitlines()[0]


def code_map():
    """The map as it has to stand in the README."""
    lines = []
    for top in MAPPED:
        for path in sorted((ROOT / top).rglob("*")):
            scripted = path.suffix == ".py" or (path.is_file() and not path.suffix)
            if scripted and path.name != "__init__.py" and "__pycache__" not in path.parts:
                lines.append(f"| `{path.relative_to(ROOT)}` | {summary_of(path)} |")
    return "\n".join(["| file | what it is |", "|---|---|", *lines])


def run(command, **options):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, shell=True, env=os.environ | {"PATH": path}, capture_output=True, text=True,
        check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_map_is_the_code():
    assert code_map() in README, f"put this into README.md:\n{code_map()}"


def test_the_loader_lines_run(shards):
    code = next(text for language, text in BLOCKS if language == "python")
    code = code.replace("s3://bucket/ssl4eo/s2c", str(shards))
    code = code.replace("batch_size=64, workers=8", "batch_size=4, workers=1")
    names = {}
    exec(code, names)
    names["loader"].close()
    assert names["batch"].views[0].shape == (4, 13, 224, 224)


def shell_lines():
    text = "\n".join(text for language, text in BLOCKS if language == "bash")
    return [line.split("  #")[0].strip() for line in text.splitlines()]


SMALLER = {
    "s3://bucket/ssl4eo/s2c": "shards/s2c",
    "--workers 16": "--workers 2",
    "--n 400000": "--n 400",
    "--n 250000 --project my-cloud-project": "--n 250 --dry-run",
    "--workers 8 --seconds 30": "--workers 1 --batch-size 2 --seconds 1",
    "--nproc-per-node 4 recipes/": f"--nproc-per-node 1 {ROOT}/recipes/",
    "--output runs/moco_rn50": "--output runs/moco_rn50 --views.size 32 --batch-size 4 "
    "--method.queue 16 --method.batch-norm-groups 1 --max-steps 1 --workers 1",
}
"""What is exchanged in the README's commands so that they run here."""


@pytest.mark.slow
def test_the_commands_run(tmp_path):
    write_tree(tmp_path / "SRC", "s2c", range(8), dates=2)
    commands = [
        line for line in shell_lines() if re.match(r"(ssl4eo-|rio |python -c|torchrun )", line)
    ]
    assert len(commands) >= 6
    for command in commands:
        smaller = command
        for there, here in SMALLER.items():
            smaller = smaller.replace(there, here)
        run(smaller, cwd=tmp_path)
    assert (tmp_path / "runs" / "moco_rn50" / "metrics.jsonl").exists()


def test_the_tools_it_names_are_there():
    for name in set(re.findall(r"\./(tools/\w+)", README)):
        assert os.access(ROOT / name, os.X_OK), name
