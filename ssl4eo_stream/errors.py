"""The few exceptions that a caller may want to catch.

Every message names the file, shard, key or flag, the rule that was broken, and what to do.
"""


class Ssl4eoError(Exception):
    """Base of the errors below; commands print its message and exit with `exit_code`."""

    exit_code = 1


class SourceError(Ssl4eoError):
    """Input pixels or their metadata are missing, unreadable, or not what the product needs."""


class ShardError(Ssl4eoError):
    """Shards, their index or manifest are missing, damaged, or do not belong together."""


class StorageError(Ssl4eoError):
    """Bytes could not be read from or written to a store."""


class MissingError(StorageError):
    """There is no such object, folder or bucket."""


class CheckpointError(Ssl4eoError):
    """A checkpoint is missing, damaged, or belongs to another run or data set."""


class ClusterError(Ssl4eoError):
    """Workers can't be had, or were lost."""


class PlanError(Ssl4eoError):
    """A table, polygon or plan of locations is wrong, or can't hold what is asked for."""


class ServiceError(Ssl4eoError):
    """A service of images refuses what is asked, or can't be reached."""
