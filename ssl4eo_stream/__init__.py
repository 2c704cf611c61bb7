"""Stream SSL4EO-S12 from object storage and pre-train on it: the package's front door."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl4eo_stream.stream.batch import Batch
    from ssl4eo_stream.stream.loader import StreamLoader
    from ssl4eo_stream.stream.select import Selection
    from ssl4eo_stream.stream.setup import Reading

__all__ = ["Batch", "Reading", "Selection", "StreamLoader"]

_MODULES = {"Batch": "batch", "Reading": "setup", "Selection": "select", "StreamLoader": "loader"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type is that of the name asked for
    """Import on first use: workers and the shard commands run without torch."""
    if name in __all__:
        return getattr(import_module(f"ssl4eo_stream.stream.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
