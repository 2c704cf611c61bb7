"""`ssl4eo-bench`: how fast the stream is here, what it waits for, and how well it mixes."""

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from ssl4eo_stream.commands import bench_headspace, bench_loader, bench_shuffle
from ssl4eo_stream.commands.arguments import INTERRUPTED, USAGE
from ssl4eo_stream.errors import Ssl4eoError


def measure(arguments: Sequence[str]) -> tuple[dict[str, Any], str, Path | None]:
    """Do what a command line asks for: the result, its summary, and the file it should go to."""
    if arguments[:1] == ["headspace"]:
        result, file = bench_headspace.headspace(arguments[1:])
        return result, bench_headspace.summary(result), file
    options = tyro.cli(
        Annotated[bench_loader.Loader, tyro.conf.subcommand("loader")]
        | Annotated[bench_headspace.Headspace, tyro.conf.subcommand("headspace")]
        | Annotated[bench_shuffle.Shuffle, tyro.conf.subcommand("shuffle")],
        prog="ssl4eo-bench",
        description=__doc__,
        args=arguments,
    )
    if isinstance(options, bench_shuffle.Shuffle):
        result = bench_shuffle.measure(options)
        return result, bench_shuffle.summary(result), options.json
    assert isinstance(options, bench_loader.Loader), "headspace has a parser of its own"
    result = bench_loader.measure(options)
    return result, bench_loader.summary(result), options.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the console script; returns 1 where the stream fails, 2 on a wrong flag or value."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result, text, file = measure(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.write(text + "\n")
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except Ssl4eoError as error:
        sys.stderr.write(f"ssl4eo-bench: {error}\n")
        return error.exit_code
    except (ValueError, OSError) as error:
        sys.stderr.write(f"ssl4eo-bench: {error}\n")
        return USAGE
    except KeyboardInterrupt:
        sys.stderr.write("ssl4eo-bench: stopped.\n")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
