"""This file is about tables of measurements: candidates timed in turns, goals met or not, Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ssdnorm.provenance import git_commit

_BEGIN, _END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pycocotools", "faster-coco-eval")


@dataclass(frozen=True)
class Settings:
    """What the benchmark command hands to each table: ``benchmarks.<name>.measure(settings) -> Table``.

    Args:
        quick: few rounds and small sizes, a few seconds a table.
        device: where networks run; data and metrics are measured on the host in any case.
        images: folder of JPEGs for what needs real ones; None draws some.
    """

    quick: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    images: Path | None = None

    @property
    def clock(self) -> Callable[[], float]:
        """Processor time where one thread of the host does the work: it leaves out what other programs take away."""
        alone = self.device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time if alone else time.perf_counter

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Goal:
    """A number that was promised, beside the one that was measured.

    Args:
        what: of what, in a few words.
        goal: the promised number.
        measured: the measured one; None where it could not be measured, with the reason in ``note``.
        unit: of both.
        at_most: smaller is better; by default larger is.
        note: why the goal is missed, or what else the reader must know.
    """

    what: str
    goal: float
    measured: float | None
    unit: str = "×"
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.goal if self.at_most else self.measured >= self.goal

    @property
    def verdict(self) -> str:
        """The same in words."""
        return {True: "met", False: "not met", None: "not measured"}[self.met]


@dataclass
class Table:
    """Rows of measurements with the goals that they are held to.

    Args:
        name: of the table, as ``--only`` takes it.
        about: what was measured, and how, in a sentence or two.
        rows: one mapping a row; the columns are the keys in the order in which they first come.
        goals: goals that these rows decide.
        notes: further paragraphs, for instance a profile that says why a goal is missed.
        failed: nothing could be measured; the only row says why.

    Example:
        >>> table = Table("adding", "One addition.", [{"candidate": "ours", "ms": 1.25}], [Goal("speed", 2, 2.5)])
        >>> print(table.markdown())
        ## adding
        <BLANKLINE>
        One addition.
        <BLANKLINE>
        | candidate | ms |
        |---|---|
        | ours | 1.25 |
        <BLANKLINE>
        | what | goal | measured | | note |
        |---|---|---|---|---|
        | speed | ≥ 2 × | 2.50 × | met | |
    """

    name: str
    about: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def markdown(self) -> str:
        """Title, what it is about, rows, goals and notes."""
        parts = [f"## {self.name}", self.about]
        if self.rows:
            parts.append(_markdown_rows(self.rows))
        if self.goals:
            parts.append(goals_table(self.goals))
        return "\n\n".join([*parts, *self.notes])

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, each goal with its verdict."""
        return {**asdict(self), "goals": [{**asdict(goal), "verdict": goal.verdict} for goal in self.goals]}


def attempt(name: str, measure: Callable[[], Table]) -> Table:
    """The table, or one that says how measuring it failed, so that a long run loses no more than this one."""
    try:
        return measure()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        row = {"failed": f"{type(error).__name__}: {error}", "in": f"{where.name}, line {where.lineno}"}
        return Table(name, "Could not be measured.", [row], failed=True)


def goals_table(goals: Iterable[Goal]) -> str:
    """Goals as a Markdown table: what, goal, measured, met or not, note."""
    lines = ["| what | goal | measured | | note |", "|---|---|---|---|---|"]
    for goal in goals:
        got = "–" if goal.measured is None else _with_unit(_cell(goal.measured), goal.unit)
        sign = "≤" if goal.at_most else "≥"
        line = (
            f"| {goal.what} | {sign} {_with_unit(f'{goal.goal:g}', goal.unit)} | {got} | {goal.verdict} | {goal.note}"
        )
        lines.append(f"{line.rstrip()} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Times:
    """Seconds of each candidate in each round, by name, or by anything that tells the candidates apart."""

    seconds: Mapping[Any, list[float]]

    def ms(self, name: Any) -> float:
        """Median over the rounds, milliseconds."""
        return 1e3 * median(self.seconds[name])

    def ratio(self, peer: Any, ours: Any) -> float:
        """How many times faster ``ours`` is than ``peer``: the median over the rounds of their ratio."""
        return median(a / b for a, b in zip(self.seconds[peer], self.seconds[ours], strict=True))


def interleaved(
    candidates: Mapping[Any, Callable[[], Any]],
    *,
    repeats: int,
    warm_up: int = 1,
    at_most_s: float = float("inf"),
    synchronize: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Time candidates in turns: each runs once in every round, so that a noisy neighbour hits them alike.

    Args:
        candidates: what to call, by name.
        repeats: rounds that count.
        warm_up: rounds before them that do not.
        at_most_s: no further round begins after so many seconds, once one has counted.
        synchronize: waits for the device, before and after each call.
        clock: gives seconds.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in candidates}
    begin = time.perf_counter()
    for round_ in range(warm_up + repeats):
        if round_ > warm_up and time.perf_counter() - begin > at_most_s:
            break
        for name, call in candidates.items():
            synchronize()
            start = clock()
            call()
            synchronize()
            if round_ >= warm_up:
                seconds[name].append(clock() - start)
    return Times(seconds)


def seconds_to_compile(call: Callable[[], Any]) -> float:
    """Seconds of a first call, with nothing taken from PyTorch's cache."""
    import torch._inductor.config as inductor  # slow to import

    start = time.perf_counter()
    with inductor.patch(force_disable_caches=True):
        call()
    return time.perf_counter() - start


def machine() -> dict[str, Any]:
    """What the measurements depend on: processor, cores, threads, load, GPU and its software, versions, commit."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        **_gpu(),
        "python": platform.python_version(),
        **packages,
        "commit": git_commit(),
    }


def all_tables(tables: Iterable[Table], about: Mapping[str, Any]) -> str:
    """Machine and versions, all goals, then each table, as Markdown."""
    tables = list(tables)
    words = "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in about.items())
    goals = [goal for table in tables for goal in table.goals]
    summary = [f"## All goals\n\n{goals_table(goals)}"] if goals else []
    return "\n\n".join([words, *summary, *(table.markdown() for table in tables)])


def write_tables(folder: Path, tables: Iterable[Table], about: Mapping[str, Any]) -> None:
    """Write ``benchmark.md`` and ``benchmark.json``.

    Args:
        folder: is made where it is missing.
        about: machine, versions and command.
    """
    tables = list(tables)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.md").write_text(f"{all_tables(tables, about)}\n", encoding="utf-8")
    content = {"about": dict(about), "tables": [table.as_dict() for table in tables]}
    (folder / "benchmark.json").write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")


def put_into_page(page: Path, tables: Iterable[Table], about: Mapping[str, Any]) -> None:
    """Replace what stands between the two marks of a page by the tables.

    Raises:
        ValueError: if the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{page}: expected the lines {_BEGIN} and {_END}, between which the tables go")
    page.write_text(f"{before}{begin}\n\n{all_tables(tables, about)}\n\n{end}{after}", encoding="utf-8")


def _markdown_rows(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(_cell(row.get(column, '')) for column in columns)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Three digits that matter for small numbers, none behind the point for large ones."""
    if not isinstance(value, float):
        return str(value)
    size = abs(value)
    if 0 < size < 0.01:
        return f"{value:.1e}"
    return f"{value:.2f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"


def _with_unit(number: str, unit: str) -> str:
    return f"{number} {unit}".rstrip()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpu() -> dict[str, Any]:
    """Name, and versions of CUDA, cuDNN and the driver."""
    if not torch.cuda.is_available():
        return {"gpu": None}
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    versions = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": driver}
    return {"gpu": torch.cuda.get_device_name(), **versions}
