"""Write and show benchmark results: one JSON per theme, machine and month, with what made it.

Run: `python benchmarks/report.py` prints every file of `benchmarks/results` as a Markdown table.
"""

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssl4eo_stream.machine import environment

RESULTS = Path(__file__).parent / "results"


def _commit() -> str:
    """Return the checkout's commit, with `+changes` where files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(RESULTS.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--verify", "--quiet", "HEAD")
    if not head:
        return "uncommitted"
    changed = git("status", "--porcelain", "--", ":/", ":!/benchmarks/results")
    return head + ("+changes" if changed else "")


def command() -> str:
    """Return the command line, without the folders of the machine it ran on."""

    def last_part(argument: str) -> str:
        flag, equals, value = argument.rpartition("=")
        return flag + equals + (value.rstrip("/").rpartition("/")[2] if "/" in value else value)

    script = f"benchmarks/{Path(sys.argv[0]).name}"
    return " ".join(["python", script, *map(last_part, sys.argv[1:])])


def summary(values: Sequence[float], *, digits: int = 1) -> dict[str, float]:
    """Return median and quartiles of at least two repeats."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": round(median, digits),
        "low": round(low, digits),
        "high": round(high, digits),
    }


def write_result(
    theme: str,
    *,
    question: str,
    repeats: int,
    rows: Sequence[Mapping[str, Any]],
    folder: Path = RESULTS,
) -> Path:
    """Write a result and return its file, `<theme>_<hardware>_<yyyymm>.json`.

    Args:
        theme: What was measured: the benchmark's file name, as a rule.
        question: The one question that the rows answer.
        repeats: How often each row was measured.
        rows: The table: one mapping per line, columns in the order of first appearance.
        folder: Where results lie.
    """
    result = {
        "question": question,
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "commit": _commit(),
        **environment(),
        "repeats": repeats,
        "rows": [dict(row) for row in rows],
    }
    machine = result["machine"]
    hardware = "-".join(
        [*machine.get("gpus", [machine["cpu"]])[:1], f"{machine['cores_used']}core"]
    )
    hardware = re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-")
    path = folder / f"{theme}_{hardware}_{datetime.now(UTC):%Y%m}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table; what a row lacks stays empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[str(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print all results."""
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        machine = result["machine"]
        gpus = f", {len(machine['gpus'])} × {machine['gpus'][0]}" if "gpus" in machine else ""
        cores = f"{machine['cores_used']} of {machine['cores_of_machine']} cores"
        print(f"### {result['question']}\n")
        print(
            f"{machine['cpu']}, {cores}{gpus}; {result['date']}, commit {result['commit'][:10]}; "
            f"{result['repeats']} repeats; `{result['command']}`\n"
        )
        print(table(result["rows"]) + "\n")


if __name__ == "__main__":
    main()
