"""Stream SSL4EO-S12 from object storage and pre-train on it: the package's front door."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl4eo_stream.stream.loader import Batch, StreamLoader

__all__ = ["Batch", "StreamLoader"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the type is that of the name asked for
    """Import the loader on first use: workers and the shard commands run without torch."""
    if name in __all__:
        from ssl4eo_stream.stream import loader

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
