"""What is tried: a command is killed, starved of disk or doubled; resumed, its folder must equal an undisturbed one."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter

from ssdnorm import provenance
from ssdnorm.cli import main
from tests.faults.folders import differences, read_folder
from tests.faults.forked_runs import fork_runs
from tests.faults.kills import Operations, in_child, start_child, wait_for

CONFIG: dict[str, Any] = {
    "norm": {"backbone": "batch_norm", "extras": "none", "taps": {"conv4_3": "l2_norm"}},
    "model": {"width": 0.02, "dropout": 0.0},
    "data": {
        "train": {"format": "shapes", "num_images": 6, "seed": 1},
        "test": {"format": "shapes", "num_images": 2, "seed": 2},
    },
    "optimizer": {"lr": 0.01, "warmup_steps": 2},
    "training": {"max_steps": 3, "batch_size": 2, "checkpoint_every": 1, "eval_every": 2, "ema_decay": 0.5},
    "runtime": {"log_every": 1, "accelerator": "cpu", "devices": 1, "diagnose_every": 2},
}
COMPARISON: dict[str, Any] = {
    "title": "Faults",
    "base": CONFIG,
    "vary": ["norm"],
    "baseline": "batch_norm",
    "seeds": [0],
    "metric": "AP",
    "target_ap50": 0.5,
    "arms": {"batch_norm": {}, "none": {"norm.backbone": "none"}},
}


@dataclass
class Trial:
    """How often something was tried, and what went wrong."""

    name: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def check(self, what: str, problems: list[str]) -> None:
        self.tried += 1
        self.failures += [f"{self.name}: {what}: {problem}" for problem in problems]


class Bench:
    """A folder to try in, with an undisturbed run, and an undisturbed comparison when it is asked for."""

    def __init__(self, root: Path, every: int) -> None:
        provenance.git_commit = lambda: None  # may change meanwhile
        SummaryWriter.add_figure = lambda *_, **__: None  # type: ignore[method-assign]  # half of a run's time
        self.root = root
        self.every = every  # of the places to kill at; 1 tries all
        self.config, self.comparison = root / "config.yaml", root / "comparison.yaml"
        self.config.write_text(yaml.safe_dump(CONFIG))
        self.comparison.write_text(yaml.safe_dump(COMPARISON, sort_keys=False))
        self.log = root / "log.txt"
        self.run = root / "undisturbed_run"
        code, self.num_operations = self.counted(lambda: self.train(self.run), self.run)
        assert code == 0, self.log.read_text()
        self.expected = read_folder(self.run)

    def train(self, output: Path) -> int:
        resume = ["--resume"] if output.exists() else []
        return main(["train", "--config", str(self.config), "--output", str(output), *resume])

    def compare(self, output: Path) -> int:
        return main(["compare", "--config", str(self.comparison), "--output", str(output)])

    def counted(self, command: Callable[[], int], folder: Path, kill_at: int | None = None) -> tuple[int, int]:
        """Exit code and number of file operations; the number is 0 after a kill."""
        operations = Operations(folder, kill_at)

        def prepare() -> Operations:
            operations.install()
            fork_runs(operations)
            return operations

        self.log.unlink(missing_ok=True)
        code = in_child(command, self.log, prepare)
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:] or [""]
        return code, int(last[0].removeprefix("operations: ")) if last[0].startswith("operations: ") else 0

    def resumed(self, command: Callable[[], int], output: Path, expected: dict[str, Any]) -> list[str]:
        """What is wrong after the command is started again."""
        self.log.unlink(missing_ok=True)
        code = in_child(command, self.log, fork_runs)
        if code:
            return [f"exit code {code} when resumed: {self.log.read_text(errors='replace')[-300:]}"]
        return differences(expected, read_folder(output))


def kill_run(bench: Bench) -> Iterator[Trial]:
    """kill −9 at every file operation of a small run."""
    trial = Trial("kill -9 at each file operation of a run")
    for place in range(0, bench.num_operations, bench.every):
        output = bench.root / "run"
        code, _ = bench.counted(lambda: bench.train(output), output, place)  # noqa: B023
        problems = [] if code == -signal.SIGKILL else [f"exit code {code} instead of a kill"]
        trial.check(f"operation {place}", problems + bench.resumed(lambda: bench.train(output), output, bench.expected))  # noqa: B023
        shutil.rmtree(output)
    yield trial


def kill_comparison(bench: Bench) -> Iterator[Trial]:
    """kill −9 at every file operation of a small comparison itself; those of its runs are tried by ``kill_run``."""
    whole, output = bench.root / "undisturbed_comparison", bench.root / "cmp"
    assert bench.resumed(lambda: bench.compare(whole), whole, {}) != [], "it has files"
    expected = read_folder(whole)
    runs = Trial("kill -9 at each file operation of a comparison's runs")
    place = 0
    while True:
        bench.counted(lambda: bench.compare(output), output, place)
        if len(list(output.rglob("result.json"))) == 2:
            break
        runs.check(f"operation {place}", bench.resumed(lambda: bench.compare(output), output, expected))
        shutil.rmtree(output)
        place += bench.every
    yield runs
    report = Trial("kill -9 at each file operation of a comparison's report")
    shutil.rmtree(output)
    shutil.copytree(whole, output)
    _, count = bench.counted(lambda: bench.compare(output), output)
    for place in range(0, count, bench.every):
        shutil.rmtree(output)
        shutil.copytree(whole, output)
        for name in ("report.html", "results.json", "results.csv", "table.md"):
            (output / name).unlink()
        shutil.rmtree(output / "figures")
        bench.counted(lambda: bench.compare(output), output, place)
        report.check(f"operation {place}", bench.resumed(lambda: bench.compare(output), output, expected))
    shutil.rmtree(output)
    yield report


def full_disk(bench: Bench) -> Iterator[Trial]:
    """A disk that fills up at more and more of a run, then has room again."""
    needed = sum(path.stat().st_size for path in bench.run.rglob("*") if path.is_file())
    sizes = [int(needed * part / 24) for part in range(1, 30, bench.every)]
    trial = Trial("a disk that is full after so many bytes of a run")
    if not _can_mount(bench.root):
        trial.name = "files that may have only so many bytes"
        sizes = sorted({path.stat().st_size - 1 for path in bench.run.rglob("*") if path.is_file()})[:: bench.every]
    for size in sizes:
        with _disk(bench.root / "disk", size) as (disk, make_room, prepare):
            output = disk / "run"
            bench.log.unlink(missing_ok=True)
            code = in_child(lambda: bench.train(output), bench.log, prepare)  # noqa: B023
            text = bench.log.read_text(errors="replace").strip()
            problems = []
            if code == 2:
                last = text.splitlines()[-1]
                if not last.startswith("error: ") or str(disk) not in last:
                    problems.append(f"the message is {last!r}")
                if "Traceback" in text:
                    problems.append(f"a traceback: {text[-600:]}")
            elif code:
                problems.append(f"exit code {code}: {text[-600:]}")
            if left := [path.name for path in output.rglob(".*")]:
                problems.append(f"left over: {left}")
            make_room()
            problems += bench.resumed(lambda: bench.train(output), output, bench.expected)  # noqa: B023
            trial.check(f"{size} of {needed} bytes", problems)
    yield trial


def temporary_folder(bench: Bench) -> Iterator[Trial]:
    """No file is written outside the run folder: TMPDIR may be full, on another file system, or missing."""
    trial, output = Trial("TMPDIR that cannot be written"), bench.root / "run"

    def prepare() -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = str(bench.root / "no such folder")

    bench.log.unlink(missing_ok=True)
    code = in_child(lambda: bench.train(output), bench.log, prepare)
    problems = differences(bench.expected, read_folder(output)) if code == 0 else [bench.log.read_text()[-600:]]
    trial.check("a run", problems)
    shutil.rmtree(output, ignore_errors=True)
    yield trial


def read_only(bench: Bench) -> Iterator[Trial]:
    """An output that cannot be written ends in one line."""
    trial = Trial("a read-only output")
    if _can_mount(bench.root):
        with _disk(bench.root / "disk", 1 << 20) as (disk, _, _prepare):
            _mount("-o", "remount,ro", str(disk))
            bench.log.unlink(missing_ok=True)
            code = in_child(lambda: bench.train(disk / "run"), bench.log)
            text = bench.log.read_text().strip()
            is_good = code == 2 and str(disk) in text.splitlines()[-1] and "Traceback" not in text
            trial.check("a run", [] if is_good else [f"exit code {code}: {text[-300:]}"])
    yield trial


def two_owners(bench: Bench) -> Iterator[Trial]:
    """Of two that start at once one makes the run, and the other leaves it alone."""
    trial = Trial("two commands on one run folder")
    for _ in range(max(1, 4 // bench.every)):
        output = bench.root / "run"
        logs = [bench.root / f"log_{i}.txt" for i in range(2)]
        children = [start_child(lambda: bench.train(output), log) for log in logs]  # noqa: B023
        codes = sorted(wait_for(child) for child in children)
        problems = [] if codes == [0, 2] else [f"exit codes {codes}: {[log.read_text()[-200:] for log in logs]}"]
        trial.check("a run", problems + differences(bench.expected, read_folder(output)))
        shutil.rmtree(output)
        for log in logs:
            log.unlink()
    yield trial


TRIALS = {
    "kill_run": kill_run,
    "kill_comparison": kill_comparison,
    "full_disk": full_disk,
    "temporary_folder": temporary_folder,
    "read_only": read_only,
    "two_owners": two_owners,
}


@contextlib.contextmanager
def _disk(folder: Path, size: int) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A folder with room for so many bytes, how to make room, and what a process does to feel the limit."""
    folder.mkdir()
    mounted = _can_mount(folder.parent)
    if mounted:
        _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    limit = (lambda: None) if mounted else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        yield folder, (lambda: _mount("-o", "remount,size=64m", str(folder)) if mounted else None), limit
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def _can_mount(folder: Path) -> bool:
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    place = folder / "mountable"
    place.mkdir()
    try:
        _mount("-t", "tmpfs", "tmpfs", str(place))
        subprocess.run(["umount", str(place)], check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        place.rmdir()
    return True


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)
