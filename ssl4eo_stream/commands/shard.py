"""ssl4eo-shard: turn GeoTIFFs into shards that a loader streams; check and describe them."""

import logging
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from ssl4eo_stream.commands import (
    shard_build,
    shard_index,
    shard_repair,
    shard_show,
    shard_stats,
    shard_verify,
)
from ssl4eo_stream.commands.arguments import INTERRUPTED
from ssl4eo_stream.errors import Ssl4eoError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the console script. Returns the exit code."""
    options = tyro.cli(
        Annotated[shard_build.Build, tyro.conf.subcommand("build")]
        | Annotated[shard_verify.Verify, tyro.conf.subcommand("verify")]
        | Annotated[shard_repair.Repair, tyro.conf.subcommand("repair")]
        | Annotated[shard_index.Index, tyro.conf.subcommand("index")]
        | Annotated[shard_stats.Stats, tyro.conf.subcommand("stats")]
        | Annotated[shard_show.Show, tyro.conf.subcommand("show")],
        prog="ssl4eo-shard",
        description=__doc__,
        args=arguments,
    )
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        match options:
            case shard_build.Build():
                return shard_build.run(options)
            case shard_verify.Verify():
                return shard_verify.run(options)
            case shard_repair.Repair():
                return shard_repair.run(options)
            case shard_index.Index():
                return shard_index.run(options)
            case shard_stats.Stats():
                return shard_stats.run(options)
            case shard_show.Show():
                return shard_show.run(options)
    except Ssl4eoError as error:
        sys.stderr.write(f"ssl4eo-shard: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        goes_on = isinstance(options, shard_build.Build | shard_repair.Repair)
        then = "go on" if goes_on else "begin anew: nothing was changed"
        sys.stderr.write(f"ssl4eo-shard: stopped; run the same command again to {then}.\n")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
