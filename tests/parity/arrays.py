"""The golden vectors: reading them, and how close is close enough."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

PARITY_DIR = Path(
    os.environ.get("PARITY_DIR", Path(__file__).parents[2].parent / "shared" / "parity")
)
TOLERANCE = {  # (rtol, atol) of the files' README: function files, whole-step files
    torch.float64: ((1e-5, 1e-6), (1e-5, 1e-6)),
    torch.float32: ((2e-5, 2e-6), (2e-4, 5e-6)),
}
DTYPES = [torch.float64, torch.float32]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float64", "float32"])


def read(name):
    path = PARITY_DIR / name
    if not path.exists():
        pytest.skip(f"{path} is missing; set PARITY_DIR to the folder of golden vectors")
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    config = json.loads(str(arrays.pop("meta")))["config"]
    return arrays, config


def part(arrays, prefix):
    return {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


def assert_close(got, want, *, tolerance, name):
    got = np.asarray(got.detach() if isinstance(got, torch.Tensor) else got, dtype=np.float64)
    rtol, atol = tolerance
    assert got.shape == want.shape, name
    worst = np.abs(got - want).max()
    limit = atol + rtol * np.abs(want).max()
    assert worst <= limit, f"{name}: off by {worst:.3g}, allowed {limit:.3g}"


def assert_all_close(got, wants, *, tolerance):
    """Compare a mapping of arrays; both have the same names."""
    assert got.keys() == wants.keys()
    for name, want in wants.items():
        assert_close(got[name], want, tolerance=tolerance, name=name)


def tensor(array, dtype):
    return torch.from_numpy(np.asarray(array)).to(dtype)


def load(module, state, *, dtype):
    """Load a state that must be whole but for counters, tables that follow from the size, RNGs."""
    module.to(dtype)
    values = {name: torch.from_numpy(np.asarray(array)) for name, array in state.items()}
    missing, unexpected = module.load_state_dict(values, strict=False)
    assert unexpected == []
    return missing


def assert_state(module, wants, *, name_of, tolerance, leave_out=()):
    """Compare a module's state with the reference's final one."""
    state = module.state_dict()
    assert wants
    for name, want in wants.items():
        if name.endswith(("num_batches_tracked", "relative_position_index")):
            continue
        got, wanted = state[name_of(name)], want
        if name.endswith("attn.qkv.bias") and "attn.qkv.bias" in leave_out:
            third = len(want) // 3  # keys' part: no gradient but rounding
            got = torch.cat([got[:third], got[2 * third :]])
            wanted = np.concatenate([want[:third], want[2 * third :]])
        elif any(name.endswith(each) for each in leave_out):
            continue
        assert_close(got, wanted, tolerance=tolerance, name=name)
