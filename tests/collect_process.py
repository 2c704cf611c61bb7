"""A download in a process of its own, from images in memory; run by test_collect_killed.

Run: `python -m tests.collect_process PLAN DEST N FAILING WAIT_SECONDS [--shards]`
"""

import logging
import os
import signal
import sys
from pathlib import Path

from archive_of_images import Images

from ssl4eo_stream.collect.part import Part, read_plan
from ssl4eo_stream.commands.arguments import INTERRUPTED
from ssl4eo_stream.commands.collect_download import collect
from ssl4eo_stream.commands.collect_options import Download


def main(plan, dest, n, failing, wait_seconds, *more):
    logging.basicConfig(stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = Download(
        plan=Path(plan), dest=Path(dest), year=2021, n=int(n), products="s1,s2c",
        dates="03-20,09-22", concurrency=8, shards="--shards" in more, codec="zstd",
        samples_per_shard=16,
    )  # fmt: skip
    service = Images(
        clear=0.15, failing=float(failing), wait_seconds=float(wait_seconds), seed=os.getpid()
    )
    try:
        return collect(options, service, places=read_plan(options.plan), wanted=int(n), part=Part())
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main(*sys.argv[1:]))
