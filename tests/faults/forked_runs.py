"""Let the launcher fork its runs instead of starting Python again, which takes seconds of processor time each.

As a command, ``python -m tests.faults.forked_runs compare …``, the runs draw nothing either, unless --draw comes first.
It is a process of its own because PyTorch may refuse to train in the fork of one that has computed a gradient.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ssdnorm.cli import main, train_pictures
from ssdnorm.compare import launcher, run_process
from tests.faults.kills import Operations, start_child, wait_for
from tests.small_training import ROOT


def compare_with_forked_runs(*words: str, draw: bool = False) -> str:
    """What the command prints; it must end well."""
    command = [sys.executable, "-m", "tests.faults.forked_runs", *["--draw"] * draw, "compare", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fork_runs(operations: Operations | None = None) -> None:
    """From now on.

    Args:
        operations: counted so far in this process; its runs are not killed.
    """

    def prepare() -> None:
        run_process._begin()
        if operations is not None:
            operations.kill_at = None

    class Forked:
        returncode: int | None = None

        def __init__(self, words: list[str], *, stdout: Any, **_: Any) -> None:
            self._pid = start_child(lambda: main(words[3:]), Path(stdout.name), prepare)

        def poll(self) -> int | None:
            if self.returncode is None:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

        def wait(self) -> int:
            if self.returncode is None:
                self.returncode = wait_for(self._pid)
            return self.returncode

        def terminate(self) -> None:
            os.kill(self._pid, signal.SIGTERM)

    names = {"Popen": Forked, "DEVNULL": subprocess.DEVNULL, "STDOUT": subprocess.STDOUT}
    run_process.subprocess = SimpleNamespace(**names)
    launcher._POLL_SECONDS = 0.02


if __name__ == "__main__":
    fork_runs()
    if sys.argv[1] == "--draw":
        sys.exit(main(sys.argv[2:]))
    train_pictures.draw_result = lambda *_, **__: None
    SummaryWriter.add_figure = lambda *_, **__: None
    sys.exit(main(sys.argv[1:]))
