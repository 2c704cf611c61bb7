"""Every field that a command line can set says what it does, and does something."""

import ast
import importlib.util
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
PACKAGE = [ast.parse(path.read_text()) for path in (ROOT / "ssl4eo_stream").rglob("*.py")]


def load(recipe):
    spec = importlib.util.spec_from_file_location(f"recipe_{recipe.stem}", recipe)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def configurations(value):
    """Yield the classes of a configuration and of those inside it."""
    yield type(value)
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner):
            yield from configurations(inner)


def knobs():
    kinds = {kind for recipe in RECIPES for kind in configurations(load(recipe).RUN)}
    assert len(kinds) >= 5
    return sorted(
        ((kind, field.name) for kind in kinds for field in fields(kind)),
        key=lambda knob: (knob[0].__name__, knob[1]),
    )


KNOBS = knobs()


@pytest.mark.parametrize(("kind", "name"), KNOBS, ids=[f"{k.__name__}.{n}" for k, n in KNOBS])
def test_a_field_is_documented_and_read(kind, name):
    (kind, *_) = [each for each in kind.__mro__ if name in vars(each).get("__annotations__", {})]
    body = ast.parse(inspect.getsource(kind)).body[0].body
    positions = [
        i for i, node in enumerate(body)
        if isinstance(node, ast.AnnAssign) and node.target.id == name
    ]  # fmt: skip
    assert len(positions) == 1
    after = body[positions[0] + 1] if positions[0] + 1 < len(body) else None
    assert isinstance(after, ast.Expr), f"{name} has no docstring"
    assert isinstance(after.value, ast.Constant)
    assert len(after.value.value.strip()) > 10
    assert any(
        isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
        for tree in PACKAGE
        for node in ast.walk(tree)
    ), f"nothing reads {name}"
