"""Launch the runs of a comparison as processes, several at once, and resume what was interrupted."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from tqdm import tqdm

from ssdnorm.compare.plan import Job
from ssdnorm.compare.run_folders import read_failure, state_of
from ssdnorm.config_file import config_to_yaml, differences_of_run, read_config
from ssdnorm.files import FAILURE_FILE, whole_rows, write_json, write_text

log = logging.getLogger("ssdnorm.compare")

_POLL_SECONDS = 0.5


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log_file: IO[bytes]
    log_start: int  # bytes of earlier attempts


def launch(jobs: Sequence[Job], root: Path, *, num_parallel: int = 1, later: Sequence[Job] = ()) -> None:
    """Make every run that is not finished; each is an ordinary run folder below ``root``.

    A run is a process (``python -m ssdnorm train … --resume``), so a crash does not affect other runs. Finished runs
    are skipped and interrupted ones resumed. Diverged runs are kept, since the same seed diverges again; runs that
    failed otherwise are repeated. The output of a run is in its ``log.txt``. The cores and GPUs of this process are
    shared evenly; a GPU that is left over stays idle, so that all runs have the same number.

    Args:
        root: folder of the comparison, owned by this process.
        num_parallel: runs at once.
        later: jobs to follow; counted by the progress bar only.

    Raises:
        ValueError: if a folder holds a run with another config.
        KeyboardInterrupt: when interrupted or terminated, after the runs in progress are stopped.
    """
    check_folders(jobs, root)
    queue = [job for job in jobs if state_of(job, root) not in ("finished", "diverged")]
    num_done, num_runs = len(jobs) - len(queue), len(jobs) + len(later)
    if num_done:
        log.info("%d of %d runs are done", num_done, len(jobs))
    if not queue:
        return
    done_steps = {job.folder: _steps_done(root / job.folder) for job in queue}
    all_steps = sum(job.config.training.num_steps for job in (*jobs, *later))
    steps_to_do = sum(job.config.training.num_steps for job in (*queue, *later))
    environments = _environments(num_parallel)  # the last run gets no more than the others
    running: dict[int, _Running] = {}  # by slot
    on_sigterm = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        with tqdm(
            total=all_steps,
            initial=all_steps - steps_to_do + sum(done_steps.values()),
            unit="step",
            desc=f"{num_done}/{num_runs} runs",
            mininterval=0.5 if sys.stderr.isatty() else 60,
            smoothing=0.02,
        ) as bar:
            while queue or running:
                for slot in range(num_parallel):
                    if queue and slot not in running:
                        running[slot] = _start(queue.pop(0), root, environments[slot])
                        names = (f"{run.job.arm}/{run.job.seed}" for run in running.values())
                        bar.set_postfix_str(", ".join(names), refresh=False)
                time.sleep(_POLL_SECONDS)
                for slot, run in list(running.items()):
                    code, steps = run.process.poll(), _steps_done(root / run.job.folder)
                    if code is not None:
                        _close(running.pop(slot), root, code)
                        num_done, steps = num_done + 1, run.job.config.training.num_steps
                        bar.set_description(f"{num_done}/{num_runs} runs", refresh=False)
                    bar.update(max(0, steps - done_steps[run.job.folder]))
                    done_steps[run.job.folder] = max(steps, done_steps[run.job.folder])
    finally:
        for run in running.values():
            run.process.terminate()
        for run in running.values():
            run.process.wait()
            run.log_file.close()
        signal.signal(signal.SIGTERM, on_sigterm)


def check_folders(jobs: Sequence[Job], root: Path) -> None:
    """Refuse folders that hold runs with another config, by the keys that differ."""
    for job in jobs:
        old = root / job.folder / "config.yaml"
        if not old.exists():
            continue
        try:
            before = read_config(old)
        except ValueError as error:
            raise ValueError(f"{error}; delete the run folder to repeat the run") from error
        if keys := differences_of_run(before, job.config):
            raise ValueError(
                f"--output: {old}: this run has another config; these keys differ: {', '.join(keys)}. "
                "Choose another folder, or delete the run folder"
            )


def _start(job: Job, root: Path, environment: dict[str, str]) -> _Running:
    folder = root / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    config = folder / "config.yaml"
    write_text(config, config_to_yaml(job.config))
    log_file = (folder / "log.txt").open("ab")
    log_start = log_file.tell()
    words = ["train", "--config", str(config), "--output", str(folder), "--resume"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ssdnorm", *words],
        stdin=subprocess.DEVNULL,
        stdout=log_file,
        stderr=subprocess.STDOUT,
        env=environment,
        preexec_fn=_die_with_parent if sys.platform == "linux" else None,
    )
    return _Running(job, process, log_file, log_start)


def _close(run: _Running, root: Path, code: int) -> None:
    """Record how the run ended, unless it did so itself: it was killed, or ended before it owned its folder."""
    run.log_file.close()
    if code == 0:
        return
    folder = root / run.job.folder
    if not (folder / FAILURE_FILE).exists():
        lines = (folder / "log.txt").read_bytes()[run.log_start :].decode("utf-8", "replace").splitlines()
        said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else said or f"exit code {code}; see log.txt"
        write_json(folder / FAILURE_FILE, {"status": "failed", "reason": reason, "exit_code": code})
    failure = read_failure(folder)
    tqdm.write(f"{run.job.folder}: {failure.status}: {failure.reason}", file=sys.stderr)


def _steps_done(folder: Path) -> int:
    """The last step in the run's metrics file."""
    steps = (row.get("step") or "" for row in whole_rows(folder / "metrics.csv"))
    return max((int(step) for step in steps if step.isdigit()), default=0)


def _environments(num_slots: int) -> list[dict[str, str]]:
    """Environment variables per slot: an even share of the cores and GPUs."""
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
    """Let Linux terminate the run when this process ends, so that no orphan writes into a folder used again."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
