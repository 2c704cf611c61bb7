"""Does a download end the same whatever happens on the way, and what does a location cost?

Run: `python benchmarks/collect.py --scratch DIR` (200 locations: 6 GB, a quarter of an hour).

`ssl4eo-collect download` in processes of its own, Earth Engine's real client in them, against the
stand-in on loopback of the tests: invented scenes, the real protocol. Three runs of one plan:
alone; killed with SIGKILL five times and begun again; with one request in ten answered by 429, 500,
503 or a connection that is cut. A fourth writes shards directly. What lies in DEST has to be the
same, file by file, and the shards those that `ssl4eo-shard build` makes of the tree. These are then
verified, streamed, and trained on for two steps. Times are the stand-in's, not Earth Engine's.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from report import RESULTS, table, write_result

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
from tests.earth_engine_server import State, earth_engine, write_key  # noqa: E402 - not installed

QUESTION = "Does a download end the same whatever happens, and what does a location cost?"
PRODUCTS = ("s1", "s2a", "s2c")
KILLS = 5
REQUESTS_EACH = 31
"""Of a location: three searches, and seven grids on each of four dates."""
FAULTS = 0.1


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file but the state's."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith("collect")
    }


def run(*words: str | Path) -> None:
    """Run a command of the package, or raise with what it said."""
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{words}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )


def module(name: str, *words: str | Path) -> list[str]:
    """Return the command line of a console script."""
    return [sys.executable, "-m", f"ssl4eo_stream.commands.{name}", *map(str, words)]


def download(
    plan: Path, dest: Path, server: State, *more: str, options: argparse.Namespace, kills: int = 0
) -> tuple[float, int]:
    """Collect, killed so many times on the way; return the seconds, and how often it was killed."""
    shutil.rmtree(dest, ignore_errors=True)
    command = module(
        "collect", "download", plan, dest, "--year", "2021", "--n", str(options.n), "--url",
        server.url, "--service-account", write_key(plan.with_name("key.json"), server.url),
        "--project", "test", *more,
    )  # fmt: skip
    start, done, draw = time.monotonic(), 0, random.Random(0)
    while True:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            if done < kills:
                before = sum(server.asked.values())
                share = REQUESTS_EACH * options.n / (kills + 1)
                after = before + int(share * draw.uniform(0.5, 1.0))
                while process.poll() is None and sum(server.asked.values()) < after:
                    time.sleep(0.05)
                process.send_signal(signal.SIGKILL)
            said = process.communicate()[1]
        if process.returncode == 0:
            return time.monotonic() - start, done
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(said.decode()[-4000:])
        done += 1


def measured(
    name: str, server: State, before: Counter[str], seconds: float, dest: Path, kills: int
) -> dict[str, Any]:
    """Return a row."""
    asked = server.asked - before
    pixels = Counter(server.log)
    server.log.clear()
    files = digests(dest)
    places = {path.split("/")[1] for path in files if path.endswith(".tif")}
    return {
        "run": name, "locations": len(places), "files": len(files),
        "kills": kills, "searches": asked["value"], "requests for pixels": asked["pixels"],
        "answered with pixels": sum(pixels.values()),
        "of them twice": sum(pixels.values()) - len(pixels), "seconds": round(seconds, 1),
        "MB": round(sum(p.stat().st_size for p in dest.rglob("*") if p.is_file()) / 1e6, 1),
        "sha256": hashlib.sha256(repr(files).encode()).hexdigest()[:12],
    }  # fmt: skip


def collect_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Collect in every way, compare, build, stream and train; return the table."""
    scratch: Path = options.scratch
    scratch.mkdir(parents=True, exist_ok=True)
    plan = scratch / "plan.csv"
    run(*module("collect", "plan", "--n", str(3 * options.n), "--seed", "0", "--output", plan))
    rows = []
    with earth_engine() as server:
        for name, kills, chance, more in (
            ("alone", 0, 0.0, []), ("killed", KILLS, 0.0, []), ("faults", 0, FAULTS, []),
            ("shards directly", 0, 0.0, ["--shards", "--codec", "jpeg:90"]),
        ):  # fmt: skip
            server.chance_of_fault = chance
            before, dest = Counter(server.asked), scratch / name.replace(" ", "-")
            seconds, killed = download(plan, dest, server, *more, options=options, kills=kills)
            rows.append(measured(name, server, before, seconds, dest, killed))
            print(rows[-1], file=sys.stderr, flush=True)
    if len({row["sha256"] for row in rows[:3]}) > 1:
        raise RuntimeError("the runs did not end the same")
    for product in PRODUCTS:
        built = scratch / "built" / product
        shutil.rmtree(built, ignore_errors=True)
        run(*module("shard", "build", scratch / "alone", built, "--product", product))
        run(*module("shard", "verify", built))
        if digests(built) != digests(scratch / "shards-directly" / product):
            raise RuntimeError(f"{product}: shards of the tree and direct ones differ")
    train(scratch, options)
    return rows


def train(scratch: Path, options: argparse.Namespace) -> None:
    """Train on L1C and Sentinel-1 together for two steps."""
    output, half = scratch / "run", options.n // 2
    shutil.rmtree(output, ignore_errors=True)
    run(
        sys.executable, ROOT / "recipes" / "moco_rn50.py", "--data", scratch / "built" / "s2c",
        scratch / "built" / "s1", "--output", output, "--batch-size", str(half), "--epochs", "1",
        "--views.size", "32", "--method.queue", str(2 * half), "--method.batch-norm-groups", "1",
        "--workers", "1", "--log-every", "1", "--backbone", "resnet18",
    )  # fmt: skip
    steps = (output / "metrics.jsonl").read_text().count('"step": ')
    if steps < 2:
        raise RuntimeError(f"trained {steps} steps, not two")


def main() -> None:
    """Collect, print and write."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--n", type=int, default=200, help="locations")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    rows = collect_all(options)
    print(table(rows))
    print(write_result("collect", question=QUESTION, repeats=1, rows=rows,
                       folder=options.results).name)  # fmt: skip


if __name__ == "__main__":
    main()
