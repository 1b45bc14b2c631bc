"""Kill a command at one of its file operations, in a child forked from a process that has imported everything."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_CHANGING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.utime")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Operations:
    """Counts the operations that change files below a folder, and kills this process before number ``kill_at``.

    Counted are Python's audit events (opening to write, renaming, removing, making folders …) and waiting for the disk,
    which lies between a file's last byte and its new name. Between two of these nothing changes but the part of a file
    that is written under a temporary name, or rows that are appended in one write. TensorBoard's files, which are
    written by a thread at moments of its own, are left out.
    """

    def __init__(self, folder: Path, kill_at: int | None = None) -> None:
        self.folder = str(folder)
        self.kill_at = kill_at
        self.count = 0

    def install(self) -> None:
        """In this process, for the rest of its life."""
        sys.addaudithook(self._audit)
        fsync = os.fsync

        def counted(descriptor: int) -> None:
            self._one_more()
            fsync(descriptor)

        os.fsync = counted

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITING
        elif event in _CHANGING:
            path, writes = arguments[0], True
        else:
            return
        if writes and isinstance(path, str | bytes | os.PathLike):
            name = os.fsdecode(path)
            if name.startswith(self.folder) and "/tensorboard/" not in name:
                self._one_more()

    def _one_more(self) -> None:
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1


def in_child(command: Callable[[], int], log: Path, prepare: Callable[[], Operations | None] = lambda: None) -> int:
    """Run a command in a forked process with its output in a file.

    Returns:
        its exit code, or minus the number of the signal that killed it.
    """
    return wait_for(start_child(command, log, prepare))


def start_child(command: Callable[[], int], log: Path, prepare: Callable[[], Operations | None] = lambda: None) -> int:
    """Fork a process that runs a command; returns its id. The number of its file operations ends its output."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(output, stream)
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1, closefd=False) for stream in (1, 2))
        operations = prepare()
        code = command()
        if operations is not None:
            print(f"operations: {operations.count}", flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for(pid: int) -> int:
    """The exit code of a child, or minus the number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
