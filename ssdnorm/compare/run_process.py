"""A run of a comparison as a process of its own: its start, its end, and its task on a cluster."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from ssdnorm.files import FAILURE_FILE, write_json, write_text
from ssdnorm.ownership import STALE_SECONDS, owned_folder

INTERRUPTED = (130, -signal.SIGTERM, -signal.SIGINT)  # exit codes of a run that was told to stop
_OF_JOBS = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_", "PMI_", "PMIX_")  # variables
_MOST_IDLE = 5  # attempts in a row without a new checkpoint
_OWNER_SECONDS = STALE_SECONDS + 60.0  # that a task waits for the owner of its run


@dataclass
class RunProcess:
    """``ssdnorm train`` on a run folder."""

    folder: Path
    process: subprocess.Popen[bytes]
    log_file: IO[bytes]
    log_start: int  # bytes of earlier attempts


def without_job(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment variables as outside of a Slurm job.

    A comparison and its runs are no tasks of the job around them: Lightning would refuse a number of devices that
    differs from that of the job's tasks, and handle its signals; and jobs inherit the environment of ``sbatch``.
    """
    return {name: text for name, text in variables.items() if not name.startswith(_OF_JOBS) or name == "SLURM_CONF"}


def start_run(folder: Path, config: str, environment: Mapping[str, str]) -> RunProcess:
    """Start or resume the run of a folder; ``config`` is the text of its config file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE_FILE).unlink(missing_ok=True)
    path = folder / "config.yaml"
    write_text(path, config)
    log_file = (folder / "log.txt").open("ab")
    log_start = log_file.tell()
    words = ["train", "--config", str(path), "--output", str(folder), "--resume"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ssdnorm", *words],
        stdin=subprocess.DEVNULL,
        stdout=log_file,
        stderr=subprocess.STDOUT,
        env=without_job(environment),
        preexec_fn=_begin,
    )
    return RunProcess(folder, process, log_file, log_start)


def close_run(run: RunProcess, code: int) -> None:
    """Record how the run ended, unless it did so itself: it was killed, or ended before it owned its folder.

    Nothing is recorded of a folder that another process owns, or has finished meanwhile.
    """
    run.log_file.close()
    if code == 0:
        return
    lines = (run.folder / "log.txt").read_bytes()[run.log_start :].decode("utf-8", "replace").splitlines()
    said = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), "")
    reason = f"killed by {signal.Signals(-code).name}" if code < 0 else said or f"exit code {code}; see log.txt"
    record_failure(run.folder, reason, exit_code=code)


def record_failure(folder: Path, reason: str, **more: Any) -> None:
    """Write why a run has no result, unless it has one, or a reason, or an owner."""
    with contextlib.suppress(ValueError), owned_folder(folder):
        if not any((folder / name).exists() for name in (FAILURE_FILE, "result.json")):
            write_json(folder / FAILURE_FILE, {"status": "failed", "reason": reason, **more})


@dataclass
class RunTask:
    """A run as a task of submitit, which is queued again when it is preempted or out of time.

    submitit gets SIGUSR2 and calls :meth:`checkpoint`; the training, on the same signal, writes a checkpoint at its
    next step and stops.
    """

    folder: Path  # of the run, absolute
    config: str  # text of its config file
    seconds: float = field(kw_only=True)  # that the training has to stop after the signal
    idle: int = field(default=0, kw_only=True)  # attempts so far, in a row, that wrote no checkpoint
    _pid: int | None = field(default=None, init=False)
    _before: int | None = field(default=None, init=False)

    def __call__(self) -> None:
        self._before = self._checkpoint_time()
        if (self.folder / "result.json").exists() or not self._is_free():
            return
        environment = {"OMP_NUM_THREADS": os.environ.get("SLURM_CPUS_PER_TASK", "1"), **os.environ}
        run = start_run(self.folder, self.config, environment)
        self._pid = run.process.pid
        try:
            while (code := run.process.poll()) is None:  # wait() would lock the process while a signal is handled
                time.sleep(0.2)
        finally:
            if run.process.returncode is None:
                run.process.kill()
                run.process.wait()
        if code not in INTERRUPTED:
            close_run(run, code)

    def checkpoint(self) -> Any:
        """Stop the training; returns the submission that goes on, or None after too many that came no further."""
        from submitit.helpers import DelayedSubmission

        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm may send it again meanwhile
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline and self._runs():
            self._send(signal.SIGUSR2)  # again and again: it is ignored until the first step
            time.sleep(0.5)
        idle = 0 if self._checkpoint_time() != self._before else self.idle + 1
        if idle == _MOST_IDLE:
            self._send(signal.SIGKILL)
            record_failure(
                self.folder, f"stopped {idle} times in a row before its next checkpoint; more --slurm.minutes?"
            )
            return None
        return DelayedSubmission(replace(self, idle=idle))

    def _is_free(self) -> bool:
        """Whether nobody owns the run; an owner that was killed on another machine counts as such for some minutes."""
        try:
            with owned_folder(self.folder, further_patience=_OWNER_SECONDS):
                return True
        except ValueError:
            return False

    def _runs(self) -> bool:
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT  # leaves the exit code to poll()
        try:
            return self._pid is not None and os.waitid(os.P_PID, self._pid, look) is None
        except ChildProcessError:  # its end is known already
            return False

    def _send(self, number: int) -> None:
        if self._pid is not None and self._runs():
            os.kill(self._pid, number)

    def _checkpoint_time(self) -> int | None:
        path = self.folder / "checkpoints" / "last.ckpt"
        return path.stat().st_mtime_ns if path.exists() else None


@dataclass
class FollowUpTask:
    """A command as a task of submitit, begun anew when it is preempted."""

    words: list[str]

    def __call__(self) -> None:
        command = [sys.executable, "-m", "ssdnorm", *self.words]
        done = subprocess.run(command, env=without_job(os.environ), preexec_fn=_begin, check=False)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {' '.join(command)}")

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _begin() -> None:
    """Ignore the signal to write a checkpoint until training begins; on Linux, end with the parent."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if sys.platform == "linux":  # no orphan writes into a folder used again
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
