"""The runs of a comparison as jobs of Slurm: submitted, watched, followed by the report.

The run folders on the shared file system say what is done, and who owns a run (:mod:`ssdnorm.ownership`). Beside them
``slurm/`` holds submitit's files and ``submitted.json``, which run is which task of Slurm; without it runs would be
submitted again, and a task whose run is finished or owned ends at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ssdnorm.compare.launcher import steps_done
from ssdnorm.compare.plan import Job
from ssdnorm.compare.run_folders import state_of
from ssdnorm.compare.run_process import FollowUpTask, RunTask, record_failure
from ssdnorm.compare.slurm_options import SlurmOptions, ask_slurm
from ssdnorm.config_file import config_to_yaml
from ssdnorm.files import write_json
from ssdnorm.messages import one_line

log = logging.getLogger("ssdnorm.compare")

_RECORD = "slurm/submitted.json"
_MOST_TIMEOUTS = 10_000  # of a run; those without progress are counted in RunTask
_MOST_REPORTS = 2  # begun anew after the end of the time
_POLL_SECONDS = 5.0
TURN_SECONDS = 120.0  # to wait for those who submit or report
_GONE_SECONDS = 30.0  # until the results of a task that ended are seen on another machine


def job_name(root: Path) -> str:
    """The name of all jobs of a comparison, by which ``squeue`` and ``scancel`` find them."""
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    return f"ssdnorm-{re.sub(r'[^A-Za-z0-9]', '_', root.resolve().name)[:30]}-{digest}"


def submit_next(
    stages: Iterable[tuple[list[Job], list[Job]]], root: Path, options: SlurmOptions, *, again: bool
) -> bool:
    """Submit the runs of the first stage that is not done, and a job that follows them: this command, once more.

    Runs that Slurm knows are left to it.

    Args:
        root: folder of the comparison, owned by this process.
        again: repeat runs that failed; otherwise those whose task ended without a result have failed.

    Returns:
        whether anything is under way.
    """
    record = _read_record(root)
    tasks: dict[str, str] = record["runs"]
    live = live_tasks(root)
    to_make = ("missing", "failed") if again else ("missing",)
    if not again:
        live.pop(record["follow_up"], None)  # this one
    for jobs, _ in stages:
        if not again:
            record_lost(jobs, root)
        under_way = {tasks[job.folder].partition("_")[0] for job in jobs if tasks.get(job.folder) in live}
        todo = [job for job in jobs if tasks.get(job.folder) not in live and state_of(job, root) in to_make]
        if not todo and not under_way:
            continue
        if todo:
            submitted = _submit_runs(todo, root, options)
            tasks |= submitted
            under_way |= {task.partition("_")[0] for task in submitted.values()}
            log.info("submitted %d runs as job %s", len(todo), next(iter(submitted.values())).partition("_")[0])
            write_json(root / _RECORD, record)
        if todo or record["follow_up"] not in live:
            old = record["follow_up"]
            record["follow_up"] = _submit_follow_up(root, options, after=under_way)
            write_json(root / _RECORD, record)
            if old in live:
                subprocess.run(["scancel", old], check=False)  # the new one follows all
        return True
    return False


def record_lost(jobs: Sequence[Job], root: Path) -> None:
    """Record as failed what was submitted, is unknown to Slurm by now, and has neither result nor failure."""
    tasks, since = _read_record(root)["runs"], time.monotonic()
    while True:
        live = live_tasks(root)
        lost = [
            job
            for job in jobs
            if job.folder in tasks and tasks[job.folder] not in live and state_of(job, root) == "missing"
        ]
        if not lost or time.monotonic() - since > _GONE_SECONDS:
            break
        time.sleep(1.0)
    for job in lost:
        task = tasks[job.folder]
        record_failure(root / job.folder, f"Slurm's task {task} ended without a result; see slurm/{task}_0_log.err")


def live_tasks(root: Path) -> dict[str, str]:
    """Task → state of the comparison's jobs that have not ended."""
    words = ("squeue", "--noheader", "--array", f"--name={job_name(root)}", "--format=%F %K %T")
    for wait in (2.0, 5.0, 15.0, 45.0, None):  # a busy controller does not answer in time
        try:
            output = ask_slurm(*words)
            break
        except ValueError:
            if wait is None:
                raise
            time.sleep(wait)
    found = (line.split() for line in output.splitlines())
    return {f"{job}" if index == "N/A" else f"{job}_{index}": state for job, index, state in found}


def watch(jobs_now: Callable[[], Sequence[Job]], root: Path) -> None:
    """Show how many runs of each arm are in which state until Slurm has no job of the comparison.

    Args:
        jobs_now: the runs that are known; more may become known when others finish.
    """
    shown_lines, shown_at, before = 0, 0.0, ""
    ended: dict[str, str] = {}  # run → state, which is not looked up again
    while True:
        live, tasks, jobs = live_tasks(root), _read_record(root)["runs"], jobs_now()
        states = {folder: live[task] for folder, task in tasks.items() if task in live}
        table = _table(jobs, root, states, ended)
        interval = 0.0 if sys.stderr.isatty() else 60.0
        if table != before and (not live or time.monotonic() - shown_at >= interval):
            up = f"\x1b[{shown_lines}F\x1b[J" if shown_lines and sys.stderr.isatty() else ""
            print(f"{up}{table}", file=sys.stderr, flush=True)
            shown_lines, shown_at, before = table.count("\n") + 1, time.monotonic(), table
        if not live:
            return
        time.sleep(_POLL_SECONDS + len(jobs) / 100)  # seldom where much has to be looked up


def _table(jobs: Sequence[Job], root: Path, live: dict[str, str], ended: dict[str, str]) -> str:
    columns = ("finished", "running", "waiting", "failed", "diverged", "missing")
    counts: dict[str, Counter[str]] = {}
    steps: Counter[str] = Counter()
    for job in jobs:
        state = ended.get(job.folder) or state_of(job, root)
        if job.folder not in live and state != "missing":
            ended[job.folder] = state
        if state == "missing" and job.folder in live:
            state = "waiting" if live[job.folder] in ("PENDING", "CONFIGURING") else "running"
        counts.setdefault(job.arm, Counter())[state] += 1
        if state == "running":
            steps[job.arm] += steps_done(root / job.folder)
    width = max(map(len, (*counts, "arm")))
    rows = [f"{'arm':<{width}} {' '.join(f'{name:>8}' for name in columns)}  steps of running"]
    for arm, found in counts.items():
        cells = " ".join(f"{found[name] or '·':>8}" for name in columns)
        rows.append(f"{arm:<{width}} {cells}  {steps[arm] or ''}".rstrip())
    return "\n".join(rows)


def _submit_runs(jobs: Sequence[Job], root: Path, options: SlurmOptions) -> dict[str, str]:
    """Submit one array; returns run folder → task."""
    most = re.search(r"MaxArraySize\s*=\s*(\d+)", ask_slurm("scontrol", "show", "config"))
    if most and len(jobs) >= int(most[1]):
        raise ValueError(f"--cluster slurm: {len(jobs)} runs; this cluster's MaxArraySize is {most[1]}")
    executor = _executor(root, options, _MOST_TIMEOUTS)
    executor.update_parameters(array_parallelism=options.parallel)
    seconds = options.signal_seconds - 10.0
    with _refused_in_one_line(), executor.batch():
        submitted = [
            executor.submit(RunTask((root / job.folder).resolve(), config_to_yaml(job.config), seconds=seconds))
            for job in jobs
        ]
    return {job.folder: str(task.job_id) for job, task in zip(jobs, submitted, strict=True)}


def _submit_follow_up(root: Path, options: SlurmOptions, *, after: Iterable[str]) -> str:
    given = options.model_dump(exclude_unset=True)
    words = ["compare", "--config", str(root.resolve() / "comparison.yaml"), "--output", str(root.resolve())]
    words += ["--cluster", "slurm", "--follow-up", *(f"--slurm.{name}={value}" for name, value in given.items())]
    executor = _executor(root, options, _MOST_REPORTS, gpus=False)
    executor.update_parameters(dependency=":".join(["afterany", *sorted(after)]))
    with _refused_in_one_line():
        return str(executor.submit(FollowUpTask(words)).job_id)


def _executor(root: Path, options: SlurmOptions, most_timeouts: int, *, gpus: bool = True) -> Any:
    import submitit

    executor = submitit.SlurmExecutor(root.resolve() / "slurm", max_num_timeout=most_timeouts)
    executor.update_parameters(
        job_name=job_name(root),
        time=options.minutes,
        signal_delay_s=options.signal_seconds,
        additional_parameters=options.sbatch(gpus=gpus),
        srun_args=[f"--cpus-per-task={options.cpus}"],
    )
    return executor


@contextlib.contextmanager
def _refused_in_one_line() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # submitit's for a command that fails
        raise ValueError(f"--cluster slurm: {one_line(error)}") from error


def _read_record(root: Path) -> dict[str, Any]:
    path = root / _RECORD
    empty: dict[str, Any] = {"runs": {}, "follow_up": ""}
    return empty | json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty
