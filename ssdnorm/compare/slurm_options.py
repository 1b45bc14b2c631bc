"""What a run asks of Slurm: keys of the command line, checked by Slurm itself before anything is submitted."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from ssdnorm.compare.plan import Plan
from ssdnorm.messages import shown, unknown_name
from ssdnorm.validation import validate

_OURS = {  # options of sbatch that follow from what a task is, and the key to use instead
    **dict.fromkeys(("array", "dependency", "error", "job-name", "output", "open-mode", "signal", "wrap"), ""),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node"), "a run is one task on one node"),
    **{"time": "use --slurm.minutes", "mem": "use --slurm.memory", "cpus-per-task": "use --slurm.cpus"},
    **{"gpus-per-node": "use --slurm.gpus", "gpus-per-task": "use --slurm.gpus"},
}


class SlurmOptions(BaseModel):
    """What every run asks of Slurm; further keys are options of ``sbatch``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    partition: str | None = Field(default=None, description="the cluster's default unless given")
    gpus: NonNegativeInt = Field(default=0, description="per run", serialization_alias="gpus-per-node")
    cpus: PositiveInt = Field(default=1, description="per run", serialization_alias="cpus-per-task")
    memory: Annotated[str, Field(pattern=r"^\d+[KMGT]?$")] | None = Field(
        default=None, description="per run: 16G", serialization_alias="mem"
    )
    minutes: PositiveInt = Field(default=60, description="until a task is stopped and queued again")
    parallel: PositiveInt = Field(default=256, description="runs at once")
    account: str | None = None
    constraint: str | None = None

    def sbatch(self, *, gpus: bool = True) -> dict[str, Any]:
        """Options of ``sbatch``, without those of the time."""
        others = {"minutes", "parallel"} if gpus and self.gpus else {"minutes", "parallel", "gpus"}
        named = self.model_dump(by_alias=True, exclude_none=True, exclude=others)
        return {"requeue": True} | {
            name.replace("_", "-"): True if value == "true" else value for name, value in named.items()
        }

    @property
    def signal_seconds(self) -> int:
        """Between the signal to write a checkpoint and the end of the time."""
        return min(90, 20 * self.minutes)


def split_options(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """``--slurm.key value`` or ``--slurm.key=value`` as key → value, and the other words.

    Example:
        >>> split_options(["--slurm.gpus", "1", "--base.x", "2", "--slurm.mail-type=END"])
        ({'gpus': '1', 'mail_type': 'END'}, ['--base.x', '2'])
    """
    given: dict[str, str] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("--slurm."):
            others.append(word)
            continue
        key, has_value, text = word.removeprefix("--slurm.").partition("=")
        value = text if has_value else next(rest, None)
        if value is None or not re.fullmatch(r"[a-z][a-z0-9_-]*", key):
            raise ValueError(f"command line: {shown(word)}: expected --slurm.key value")
        given[key.replace("-", "_")] = value
    return given, others


def read_options(given: dict[str, str], plan: Plan) -> SlurmOptions:
    """Check the options by Slurm itself before anything is submitted; raises ``ValueError``."""
    options = validate(SlurmOptions, given, lambda _: "command line: --slurm")
    for name in options.model_extra or ():
        if (option := name.replace("_", "-")) in _OURS:
            raise ValueError(f"command line: --slurm.{name}: is set by compare. {_OURS[option]}".rstrip(". "))
    runtime = plan.base.runtime
    if runtime.num_nodes > 1:
        raise ValueError(f"base.runtime.num_nodes: a run on Slurm is one task on one node; got {runtime.num_nodes}")
    if runtime.accelerator in ("gpu", "cuda") and not options.gpus:
        asked = f"base.runtime.accelerator is {runtime.accelerator}"
        raise ValueError(f"command line: --slurm.gpus: {asked}; ask for GPUs, such as 1")
    absent = [name for name in ("sbatch", "srun", "squeue", "sinfo", "scontrol") if shutil.which(name) is None]
    if absent:
        raise ValueError(
            f"--cluster slurm: {', '.join(absent)}: no such command on this machine; is it part of a cluster?"
        )
    if importlib.util.find_spec("submitit") is None:
        raise ValueError("--cluster slurm: needs submitit: pip install 'ssdnorm[slurm]'")
    limits = dict(line.split() for line in ask_slurm("sinfo", "--noheader", "--format=%P %l").splitlines())
    default = next((name for name in limits if name.endswith("*")), None)
    limits = {name.rstrip("*"): limit for name, limit in limits.items()}
    name = options.partition or (default or "").rstrip("*")
    if options.partition is not None:
        for part in options.partition.split(","):
            if part not in limits:
                raise ValueError(f"command line: --slurm.partition: {unknown_name('partition', part, limits)}")
    if (limit := _minutes(limits.get(name, "infinite"))) is not None and options.minutes > limit:
        raise ValueError(f"command line: --slurm.minutes: partition {name} allows {limit}; got {options.minutes}")
    words = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.sbatch().items()]
    ask_slurm("sbatch", "--test-only", f"--time={options.minutes}", *words, "--wrap=true")
    return options


def ask_slurm(*words: str) -> str:
    """What a command of Slurm prints; its complaint becomes a ``ValueError`` of one line."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        first = next((line for line in done.stderr.splitlines() if line.strip()), f"exit code {done.returncode}")
        raise ValueError(f"--cluster slurm: {words[0]}: {re.sub(rf'^{words[0]}: (error: )?', '', first)}")
    return done.stdout


def _minutes(limit: str) -> int | None:
    """A time limit of ``sinfo`` in minutes; None for none.

    Example:
        >>> _minutes("30:00"), _minutes("1:00:00"), _minutes("2-12:00:00"), _minutes("infinite")
        (30, 60, 3600, None)
    """
    parts = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if parts is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in parts.groups())
    return (24 * days + hours) * 60 + minutes
