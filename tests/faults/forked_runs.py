"""Let the launcher fork its runs instead of starting Python again, which takes seconds of processor time each."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ssdnorm.cli import main
from ssdnorm.compare import launcher, run_process
from tests.faults.kills import Operations, start_child, wait_for


def fork_runs(operations: Operations | None = None, put: Callable[[Any, str, Any], None] = setattr) -> None:
    """From now on, or, where ``put`` is a monkeypatch's, until the end of a test.

    Args:
        operations: counted so far in this process; its runs are not killed.
        put: sets the attribute of a module.
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
    put(run_process, "subprocess", SimpleNamespace(**names))
    put(launcher, "_POLL_SECONDS", 0.02)
