"""What a state of the loader belongs to: the same samples in the same order, or an error."""

from collections.abc import Mapping
from typing import Any

from ssl4eo_stream.errors import CheckpointError
from ssl4eo_stream.stream.plan import BLOCK_CHUNKS, CHUNK_LOCATIONS

STATE_VERSION = 2


def place(identity: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """Return what has to be equal for positions to mean the same samples: JSON-able.

    Args:
        identity: The catalog's.
        seed: The run's.
    """
    return {
        "version": STATE_VERSION,
        "seed": seed,
        **identity,
        "chunk_locations": CHUNK_LOCATIONS,
        "block_chunks": BLOCK_CHUNKS,
    }


def check_state(state: Mapping[str, Any], *, ours: Mapping[str, Any], url: str) -> None:
    """Compare a state with the loader that is to go on from it.

    Raises:
        CheckpointError: The state belongs to other data, another seed, or another version.
    """
    other = "that the checkpoint was trained on; give the same, or start a new run."
    release = "Resume with the release that wrote it."
    remedies = {
        "version": release,
        "seed": "Give that seed, or start a new run.",
        "manifest": f"The shards at {url} are not those {other}",
        "bands": f"The bands are not those {other}",
        "samples": f"The selected locations or dates are not those {other}",
    }
    for name, value in ours.items():
        if state.get(name) != value:
            raise CheckpointError(
                f"The loader's state has {name} {state.get(name)}, this loader {value}. "
                f"{remedies.get(name, release)}"
            )
