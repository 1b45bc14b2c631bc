"""Measure what starting costs: processor time of child processes that import or print help."""

from __future__ import annotations

import resource
import subprocess
import sys
from statistics import median

from benchmarks.table import Table
from benchmarks.timing import Settings

_COMMANDS = {
    "import torch": ("-c", "import torch"),
    "import torch, ssdnorm": ("-c", "import torch, ssdnorm"),
    "ssdnorm --help": ("-m", "ssdnorm", "--help"),
    "ssdnorm train --help": ("-m", "ssdnorm", "train", "--help"),
}


def measure(settings: Settings) -> Table:
    """Each command in a process of its own, in turns; the first round is left out, it may compile bytecode."""
    rounds = 1 if settings.quick else 5
    seconds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    for round_ in range(rounds + (not settings.quick)):
        for name, words in _COMMANDS.items():
            taken = processor_seconds([sys.executable, *words])
            if round_ or settings.quick:
                seconds[name].append(taken)
    middle = {name: median(values) for name, values in seconds.items()}
    extra = median(
        ours - torch for ours, torch in zip(seconds["import torch, ssdnorm"], seconds["import torch"], strict=True)
    )
    return Table(
        "startup",
        "Processor time of a Python process that imports a package or prints a command's help, files in the system's "
        "cache, one thread.",
        [{"command": name, "seconds": value} for name, value in middle.items()],
        {
            "startup.help": middle["ssdnorm --help"],
            "startup.train_help": middle["ssdnorm train --help"],
            "startup.import": extra,
        },
    )


def processor_seconds(command: list[str]) -> float:
    """Processor time of a child process and its threads.

    Raises:
        RuntimeError: if the command fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-200:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
