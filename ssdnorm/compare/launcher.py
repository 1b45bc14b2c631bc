"""Launch the runs of a comparison as processes, several at once, and resume what was interrupted."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from ssdnorm.compare.analysis import choose_rates
from ssdnorm.compare.plan import Job, Plan
from ssdnorm.compare.run_folders import read_failure, state_of
from ssdnorm.compare.run_process import RunProcess, close_run, start_run
from ssdnorm.config_file import config_to_yaml, differences_of_run, read_config
from ssdnorm.files import FAILURE_FILE, whole_rows

log = logging.getLogger("ssdnorm.compare")

_POLL_SECONDS = 0.5


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
    done_steps = {job.folder: steps_done(root / job.folder) for job in queue}
    all_steps = sum(job.config.training.num_steps for job in (*jobs, *later))
    steps_to_do = sum(job.config.training.num_steps for job in (*queue, *later))
    environments = _environments(num_parallel)  # the last run gets no more than the others
    running: dict[int, tuple[Job, RunProcess]] = {}  # by slot
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
                        job = queue.pop(0)
                        run = start_run(root / job.folder, config_to_yaml(job.config), environments[slot])
                        running[slot] = job, run
                        names = (f"{job.arm}/{job.seed}" for job, _ in running.values())
                        bar.set_postfix_str(", ".join(names), refresh=False)
                time.sleep(_POLL_SECONDS)
                for slot, (job, run) in list(running.items()):
                    code, steps = run.process.poll(), steps_done(run.folder)
                    if code is not None:
                        close_run(run, code)
                        del running[slot]
                        num_done, steps = num_done + 1, job.config.training.num_steps
                        bar.set_description(f"{num_done}/{num_runs} runs", refresh=False)
                        if (run.folder / FAILURE_FILE).exists():
                            failure = read_failure(run.folder)
                            tqdm.write(f"{job.folder}: {failure.status}: {failure.reason}", file=sys.stderr)
                    bar.update(max(0, steps - done_steps[job.folder]))
                    done_steps[job.folder] = max(steps, done_steps[job.folder])
    finally:
        for _, run in running.values():
            run.process.terminate()
        for _, run in running.values():
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


def stages(plan: Plan, root: Path) -> Iterator[tuple[list[Job], list[Job]]]:
    """The runs that can be made at once, those that choose learning rates first, and the known ones that follow.

    The results of a stage decide what the next is, so its runs must have ended when that is asked for.
    """
    tried, (rates, lrs) = None, choose_rates(plan, root)
    while rates != tried:  # lists of rates grow while the best is at their edge
        tried, first = rates, plan.first_jobs(rates)
        yield first, plan.jobs(rates, lrs)[len(first) :]
        rates, lrs = choose_rates(plan, root)
    if choosing := plan.choosing_jobs(rates):
        failed = {job.arm for job in choosing if state_of(job, root) == "failed"}
        if failed:
            log.warning("a run that decides a learning rate failed; no seeds of %s", ", ".join(sorted(failed)))
        yield [job for job in plan.jobs(rates, lrs) if job.arm not in failed], []


def steps_done(folder: Path) -> int:
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
