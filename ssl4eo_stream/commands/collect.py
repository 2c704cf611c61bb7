"""ssl4eo-collect: choose locations and take their images, for a data set like SSL4EO-S12."""

import logging
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from ssl4eo_stream.commands.arguments import INTERRUPTED
from ssl4eo_stream.errors import Ssl4eoError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the console script. Returns the exit code."""
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:  # the core does without what this needs
        name = error.name or ""
        if name.startswith("ssl4eo_stream"):
            raise
        extra = "stac" if name.startswith(("pystac", "odc", "planetary")) else "collect"
        sys.stderr.write(
            f"ssl4eo-collect: {name} is not installed: pip install 'ssl4eo-stream[{extra}]'.\n"
        )
        return 1
    except Ssl4eoError as error:
        sys.stderr.write(f"ssl4eo-collect: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("ssl4eo-collect: stopped; run the same command again.\n")
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    from ssl4eo_stream.commands import collect_download, collect_options, collect_plan

    options = tyro.cli(
        Annotated[collect_plan.Plan, tyro.conf.subcommand("plan")]
        | Annotated[collect_options.Download, tyro.conf.subcommand("download")],
        prog="ssl4eo-collect",
        description=__doc__,
        args=arguments,
    )
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    match options:
        case collect_plan.Plan():
            return collect_plan.run(options)
        case collect_options.Download():
            return collect_download.run(options)


if __name__ == "__main__":
    sys.exit(main())
