"""Tables that people bring: CSV files, read with errors that name file, line and column."""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ssl4eo_stream.errors import PlanError


def read_rows(path: Path, *, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number, from 1, and fields of every row of a CSV file with a header.

    Args:
        path: The file, UTF-8; packed by gzip where its name ends in `.gz`.
        columns: What it has to have; others may be there.

    Raises:
        PlanError: It can't be read, is no such table, or a row is cut short.
    """
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="")
        ) as file:
            reader = csv.DictReader(file, strict=True)
            for column in columns:
                if column not in (reader.fieldnames or ()):
                    raise PlanError(
                        f"{path}, line 1: there is no column {column}; it needs "
                        f"{', '.join(columns)}, with their names in the first line."
                    )
            for row in reader:
                for column in columns:
                    if row[column] is None:
                        raise PlanError(
                            f"{path}, line {reader.line_num}, column {column}: the line ends "
                            "before it. Mend or remove the line."
                        )
                yield reader.line_num, row
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise PlanError(
            f"{path} can't be read as a table: {error}. Give a CSV file in UTF-8, as it is or "
            "packed by gzip (.gz)."
        ) from error


def number(
    row: dict[str, str], column: str, *, path: Path, line: int, low: float, high: float
) -> float:
    """Return a field of a row as a number from `low` to `high`.

    Raises:
        PlanError: It is none.
    """
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if low <= value <= high:
        return value
    raise PlanError(
        f"{path}, line {line}, column {column}: {row[column]!r} is no number from {low:g} to "
        f"{high:g}. Mend or remove the line."
    )
