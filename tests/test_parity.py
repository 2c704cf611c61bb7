"""Our modules against numbers that the methods' published code produced: every file, every array.

The tests of each method lie in tests/parity; the files in PARITY_DIR.
"""

import re
from pathlib import Path

import pytest
import torch
from parity.arrays import PARITY_DIR
from parity.data2vec import *  # noqa: F403
from parity.dino import *  # noqa: F403
from parity.mae import *  # noqa: F403
from parity.moco_v2 import *  # noqa: F403
from parity.moco_v3 import *  # noqa: F403
from parity.schedules import *  # noqa: F403


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny networks: a second thread only waits, and sums would depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_every_file_is_read_by_a_test():
    found = {path.name for path in PARITY_DIR.glob("*.npz")}
    if not found:
        pytest.skip(f"no files in {PARITY_DIR}; set PARITY_DIR to the folder of golden vectors")
    texts = [path.read_text() for path in (Path(__file__).parent / "parity").glob("*.py")]
    read = set(re.findall(r"\w+\.npz", " ".join(texts)))
    assert found <= read | {"dino_vit_step.npz", "dino_conv_step.npz"}  # named by their kind
