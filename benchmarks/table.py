"""Tables of measurements as Markdown and JSON, and the page that is rendered from the JSON."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.goals import GOALS

_BEGIN, _END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"


@dataclass
class Table:
    """Rows of measurements, and the numbers that decide goals.

    Args:
        name: of the subject, as ``--only`` takes it.
        about: what was measured and how, in a sentence or two.
        rows: a mapping per row; the columns are the keys in the order in which they first come.
        measured: number of each goal of :data:`benchmarks.goals.GOALS`; None where it could not be measured.
        notes: further paragraphs.
        machine: what the numbers depend on: device, processor, versions, commit.
        failed: nothing could be measured; the only row says why.

    Example:
        >>> print(Table("adding", "One addition.", [{"candidate": "ours", "ms": 1.25}]).markdown())
        ## adding
        <BLANKLINE>
        One addition.
        <BLANKLINE>
        | candidate | ms |
        |---|---|
        | ours | 1.25 |
    """

    name: str
    about: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    measured: dict[str, float | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    failed: bool = False

    def markdown(self) -> str:
        """Title, what it is about, rows and notes."""
        title = f"## {self.name}" + (", GPU" if self.machine.get("device") == "cuda" else "")
        return "\n\n".join([title, self.about, *([_markdown_rows(self.rows)] if self.rows else []), *self.notes])


def attempt(name: str, measure: Callable[[], Table]) -> Table:
    """The table, or one that says how measuring failed, so that a long run loses only this one."""
    try:
        return measure()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        row = {"failed": f"{type(error).__name__}: {error}", "in": f"{where.name}, line {where.lineno}"}
        return Table(name, "Could not be measured.", [row], failed=True)


def goals_table(tables: Iterable[Table], *, all_goals: bool = False) -> str:
    """Goals as a Markdown table: what, goal, measured, met or not, note.

    Args:
        all_goals: list the goals that no table measured, too.
    """
    measured = {key: value for table in tables for key, value in table.measured.items()}
    lines = ["| what | goal | measured | | note |", "|---|---|---|---|---|"]
    for key, goal in GOALS.items():
        value = measured.get(key)
        if not all_goals and key not in measured:
            continue
        notes = [goal.note, f"needs {goal.needs}" if value is None and goal.needs else ""]
        got = "–" if value is None else f"{_cell(value)} {goal.unit}".rstrip()
        bound = f"{'≤' if goal.at_most else '≥'} {goal.bound:g} {goal.unit}".rstrip()
        note = "; ".join(filter(None, notes))
        lines.append(f"| {goal.what} | {bound} | {got} | {goal.verdict(value)} | {note}".rstrip() + " |")
    return "\n".join(lines)


def report(tables: Iterable[Table]) -> str:
    """All goals, the machines, then each table, as Markdown."""
    tables = list(tables)
    return "\n\n".join(
        [
            f"## Goals\n\n{goals_table(tables, all_goals=True)}",
            f"## Machines\n\n{_machines(tables)}",
            *(table.markdown() for table in tables),
        ]
    )


def read_tables(path: Path) -> list[Table]:
    """Tables of a JSON file; none where there is no file."""
    if not path.is_file():
        return []
    return [Table(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def write_tables(path: Path, tables: Iterable[Table]) -> list[Table]:
    """Put tables into a JSON file, in place of those of the same subject and device; all that it then holds."""
    found = {(table.machine.get("device"), table.name): table for table in [*read_tables(path), *tables]}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [asdict(table) for table in found.values()]
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return list(found.values())


def render_page(page: Path) -> None:
    """Write the tables of the JSON file beside a page between the page's marks.

    Raises:
        ValueError: if the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{page}: expected the lines {_BEGIN} and {_END}, between which the tables go")
    block = report(read_tables(page.with_suffix(".json")))
    page.write_text(f"{before}{begin}\n\n{block}\n\n{end}{after}", encoding="utf-8")


def _machines(tables: Iterable[Table]) -> str:
    """A line per machine, with the tables that were measured on it."""
    names: dict[str, list[str]] = {}
    for table in tables:
        words = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in table.machine.items() if value)
        names.setdefault(words, []).append(table.name)
    return "\n".join(f"- {', '.join(some)}: {words}" for words, some in names.items())


def _markdown_rows(rows: list[Mapping[str, Any]] | list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row.get(column, '')) for column in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Three significant digits for small numbers, no decimals for large ones."""
    if not isinstance(value, float) or value == 0:
        return "0" if value == 0 and isinstance(value, float) else str(value)
    size = abs(value)
    if size < 0.01:
        return f"{value:.1e}"
    return f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"
