"""Write files whole or not at all, and read CSV files that may be truncated."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssdnorm.messages import one_line

# in a run folder
FAILURE_FILE = "failure.json"  # why the run has no result: status (diverged or failed) and reason
START_FILE = "start.json"  # digests of what it started from
ROWS_REMEDY = "delete it to go on without its rows"  # of a damaged CSV file

_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{8}\.part(\.[^.]*)?")
_LONGEST_NAME = 255  # bytes, on common file systems


@contextlib.contextmanager
def replaced_file(path: str | Path, *, durable: bool = True, previous: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it replaces ``path`` at the end, and is removed after an error.

    Args:
        durable: wait until file and folder are on the disk, so that a power failure leaves the old or the new file.
        previous: where the old file goes when the new one is complete.

    Raises:
        OSError: names ``path``, whatever failed.

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
    ending = f".{secrets.token_hex(4)}.part{path.suffix}"  # writers choose the format by the suffix
    unfinished = path.with_name("." + shortened(path.stem, _LONGEST_NAME - 1 - len(os.fsencode(ending))) + ending)
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            if durable:
                _wait_for_disk(unfinished)
            if previous is not None and path.exists():
                path.replace(previous)
            unfinished.replace(path)
            if durable:
                with contextlib.suppress(OSError):  # some file systems refuse it for folders
                    _wait_for_disk(path.parent)
        finally:
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let errors of the operating system name ``path``; without this "No space left on device" names no file."""
    try:
        yield
    except OSError as error:
        is_ours = error.filename is None or _UNFINISHED.fullmatch(Path(os.fsdecode(error.filename)).name)
        if error.errno is None or not is_ours:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def shortened(name: str, limit: int) -> str:
    """The beginning of a file name in at most ``limit`` bytes.

    Example:
        >>> shortened("größer", 4)
        'grö'
    """
    return os.fsencode(name)[:limit].decode("utf-8", "ignore")


def remove_unfinished(*folders: Path, older_than: float = 0.0) -> None:
    """Remove what killed processes left of :func:`replaced_file` in these folders.

    Args:
        older_than: seconds; spares files that another process may be writing.
    """
    for folder in folders:
        with contextlib.suppress(OSError):  # no folder, or not ours to clean
            for path in folder.iterdir():
                if _UNFINISHED.fullmatch(path.name) and time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()


def write_bytes(path: str | Path, content: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a file atomically.

    Encoders that write files themselves may leave half of one on a full disk, or end the process: let them write to
    memory, and that here.
    """
    with replaced_file(path, durable=durable) as unfinished:
        unfinished.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file atomically; a list on one line, anything else indented."""
    write_text(path, json.dumps(content, indent=None if isinstance(content, list) else 2))


def write_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically, with a line of column names; what a row lacks stays empty."""
    with replaced_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def append_rows(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    """Append rows to a CSV file with one write, so that a killed process leaves all of them or none."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    with named_errors(path), path.open("ab", buffering=0) as file:
        content = text.getvalue().encode("utf-8")
        while content:  # a full disk may take a part
            content = content[file.write(content) :]


@contextlib.contextmanager
def refuse_damage(path: Path, remedy: str) -> Iterator[None]:
    """Refuse a file of ours whose content makes an error, by its name and with what to do."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged; {remedy}: {one_line(error)}") from error


def whole_rows(path: str | Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file; none if it is missing. Skips a row truncated by a full disk.

    Raises:
        ValueError: not a CSV file.
    """
    if not Path(path).is_file():
        return []
    content = Path(path).read_bytes()
    text = content[: content.rfind(b"\n") + 1].decode("utf-8", "replace")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise ValueError(f"{path}: damaged: {error}") from error
    return [row for row in rows if None not in row and None not in row.values()]


def _wait_for_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
