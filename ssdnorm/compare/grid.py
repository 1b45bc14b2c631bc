"""This file is about the grid: every run of a plan as a process of its own, several at once, resumed."""

from __future__ import annotations

import ctypes
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
import yaml
from tqdm import tqdm

from ssdnorm.compare.plan import Job
from ssdnorm.compare.results import Status
from ssdnorm.config_file import config_to_mapping, config_to_yaml, differing_keys
from ssdnorm.engine.run import FAILURE_FILE
from ssdnorm.files import whole_rows, write_json, write_text

log = logging.getLogger("ssdnorm.compare")

_POLL_SECONDS = 0.5


@dataclass
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    log_file: IO[bytes]


def run_grid(jobs: Sequence[Job], root: Path, *, num_parallel: int = 1, later: Sequence[Job] = ()) -> None:
    """Make every run that is not finished yet; each is an ordinary run folder below ``root``.

    A run is a process (``python -m ssdnorm train … --resume``), so that one that dies takes no other along. Finished
    runs are skipped, interrupted ones go on from their last checkpoint, diverged ones stay as they are, since the same
    seed diverges again; those that failed in another way are tried anew. What a run prints is in its ``log.txt``. The
    cores and GPUs that this process may use are shared out evenly; a GPU that is left over stays idle, so that all
    runs have the same number.

    Args:
        num_parallel: runs at once.
        later: what is made after these; counted in the progress view alone.

    Raises:
        ValueError: if a folder holds a run with another config, or another comparison is at work in ``root``.
        KeyboardInterrupt: when interrupted or terminated; the runs under way are stopped first.
    """
    check_folders(jobs, root)
    waiting = [job for job in jobs if state_of(job, root) not in ("finished", "diverged")]
    num_done = len(jobs) - len(waiting)
    if num_done:
        log.info("%d of %d runs are there already", num_done, len(jobs))
    if not waiting:
        return
    total = sum(job.config.training.max_steps for job in (*jobs, *later))
    num_runs = len(jobs) + len(later)
    done_steps = {job.folder: _steps_done(root / job.folder) for job in waiting}
    initial = total - sum(job.config.training.max_steps for job in (*waiting, *later)) + sum(done_steps.values())
    running: list[_Running] = []
    free = list(range(num_parallel))
    environments = _environments(num_parallel)  # whatever is left to do: the last run gets no more than the others
    with (
        _alone_in(root) as lock,
        _terminate_as_interrupt(),
        tqdm(
            total=total,
            initial=initial,
            unit="step",
            desc=f"{num_done}/{num_runs} runs",
            mininterval=0.5 if sys.stderr.isatty() else 60,
            smoothing=0.02,
        ) as bar,
    ):
        try:
            while waiting or running:
                while waiting and free:
                    slot = free.pop(0)
                    running.append(_start(waiting.pop(0), slot, root, environments[slot], lock))
                    bar.set_postfix_str(", ".join(f"{r.job.arm}/{r.job.seed}" for r in running), refresh=False)
                time.sleep(_POLL_SECONDS)
                for run in list(running):
                    code = run.process.poll()
                    steps = _steps_done(root / run.job.folder)
                    if code is not None:
                        running.remove(run)
                        free.append(run.slot)
                        num_done += 1
                        _close(run, root, code)
                        steps = run.job.config.training.max_steps
                        bar.set_description(f"{num_done}/{num_runs} runs", refresh=False)
                    bar.update(max(0, steps - done_steps[run.job.folder]))
                    done_steps[run.job.folder] = max(steps, done_steps[run.job.folder])
        finally:
            for run in running:
                run.process.terminate()
            for run in running:
                run.process.wait()
                run.log_file.close()


def check_folders(jobs: Sequence[Job], root: Path) -> None:
    """Refuse folders that hold runs of another config, before the first run starts.

    Raises:
        ValueError: naming the folder and the keys that differ.
    """
    for job in jobs:
        old = root / job.folder / "config.yaml"
        if old.exists():
            before = _read_mapping(old)
            keys = [k for k in differing_keys(before, config_to_mapping(job.config)) if not k.startswith("runtime.")]
            if keys:
                raise ValueError(
                    f"--output: {old}: this run was made with another config; these keys differ: {', '.join(keys)}. "
                    "Take another folder, or remove the run"
                )


def state_of(job: Job, root: Path) -> Status:
    """``finished``, ``diverged``, ``failed`` or ``missing``, from what lies in the run's folder."""
    folder = root / job.folder
    if (folder / "result.json").exists():
        return "finished"
    if (folder / FAILURE_FILE).exists():
        return "diverged" if _failure(folder)["status"] == "diverged" else "failed"
    return "missing"


def failure_reason(job: Job, root: Path) -> str:
    """Why a run diverged or failed, in one line."""
    return str(_failure(root / job.folder)["reason"])


def _failure(folder: Path) -> dict[str, Any]:
    content = _read_mapping(folder / FAILURE_FILE)
    if not {"status", "reason"} <= content.keys():
        raise ValueError(f"{folder / FAILURE_FILE}: says no status and reason; remove the file to try the run anew")
    return content


def read_result(folder: Path) -> dict[str, Any]:
    """The content of a finished run's ``result.json``.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    return _read_mapping(folder / "result.json")


def _read_mapping(path: Path) -> dict[str, Any]:
    """A run's YAML or JSON file (which is YAML, but read faster)."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: damaged; remove the run to make it anew: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: damaged, holds no keys and values; remove the run to make it anew")
    return content


def _start(job: Job, slot: int, root: Path, environment: dict[str, str], lock: int) -> _Running:
    folder = root / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    config = folder / "config.yaml"
    write_text(config, config_to_yaml(job.config))
    log_file = (folder / "log.txt").open("ab")
    words = ["train", "--config", str(config), "--output", str(folder), "--resume"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ssdnorm", *words],
        stdin=subprocess.DEVNULL,
        stdout=log_file,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=[lock],
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    return _Running(job, slot, process, log_file)


def _close(run: _Running, root: Path, code: int) -> None:
    """Note how the run ended, where it did not note it itself."""
    run.log_file.close()
    folder = root / run.job.folder
    if code == 0 or (folder / FAILURE_FILE).exists():
        return
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = lines[-1] if lines else ""
    reason = reason.removeprefix("error: ") or "it left no message"
    if code < 0:
        reason = f"killed by {signal.Signals(-code).name}"
    log.warning("%s: failed: %s", run.job.folder, reason)
    write_json(folder / FAILURE_FILE, {"status": "failed", "reason": reason, "exit_code": code})


def _steps_done(folder: Path) -> int:
    """The last step in the run's metrics file."""
    steps = (row["step"] or "" for row in whole_rows(folder / "metrics.csv"))
    return max((int(step) for step in steps if step.isdigit()), default=0)


def _environments(num_slots: int) -> list[dict[str, str]]:
    """Environment variables by slot: an even share of the cores and GPUs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    environments = []
    for slot in range(num_slots):
        environment = {"OMP_NUM_THREADS": str(max(1, cores // num_slots)), **os.environ}
        if gpus and torch.cuda.is_available():
            share = max(1, len(gpus) // num_slots)
            mine = [gpus[(slot * share + i) % len(gpus)] for i in range(share)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        environments.append(environment)
    return environments


def _die_with_parent() -> None:
    """Linux ends the run when this process is gone, so that no orphan writes into a folder that is used anew."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextmanager
def _alone_in(root: Path) -> Iterator[int]:
    """Hold the comparison's lock; runs inherit it, so that it is held until the last of them is gone."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"--output: {root}: another comparison, or a run that it left, is at work here") from None
        yield file.fileno()


class _terminate_as_interrupt:
    """SIGTERM stops the grid as Ctrl-C does."""

    def __enter__(self) -> None:
        def interrupt(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        self._old: Callable[[int, FrameType | None], Any] | int | None = None
        if threading.current_thread() is threading.main_thread():
            self._old = signal.signal(signal.SIGTERM, interrupt)

    def __exit__(self, *error: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGTERM, self._old)
