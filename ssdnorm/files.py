"""Write files atomically, and read CSV files that may be truncated."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# in a run folder
FAILURE_FILE = "failure.json"  # why the run has no result
START_FILE = "start.json"  # digests of what it started from


@contextmanager
def replaced_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it replaces ``path`` at the end, and is removed after an error.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with replaced_file(target) as unfinished:
        ...     _ = unfinished.write_text("1 2 3")
        ...     target.exists()
        False
        >>> target.read_text()
        '1 2 3'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(
        f".{path.stem}.{os.getpid()}.part{path.suffix}"
    )  # writers choose the format by the suffix
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: str | Path, content: str) -> None:
    """Write a text file atomically."""
    with replaced_file(path) as unfinished:
        unfinished.write_text(content, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file atomically; a list on one line, anything else indented."""
    write_text(path, json.dumps(content, indent=None if isinstance(content, list) else 2))


def whole_rows(path: str | Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file; none if it is missing. Skips a row truncated by a full disk or a killed process."""
    if not Path(path).is_file():
        return []
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if None not in row.values()]
