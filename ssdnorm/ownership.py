"""One owner per folder, among the processes of one machine or of many that share a file system.

A process that wants a folder creates a file of its own in it, whose name identifies the process, and then looks for
the files of others. Of two processes, the one that created its file later sees the other's and withdraws, so that they
never both own the folder; if both withdraw, both retry after a random delay. This requires only that a file system
shows a created file to every later listing of its folder, which NFS guarantees, and it leaves no lock to break: the
file of a dead process is removed by the next one. On the same machine a process is dead if it no longer runs; on
another machine, if it has not touched its file for ``STALE_SECONDS``.
"""

from __future__ import annotations

import _thread
import contextlib
import hashlib
import logging
import os
import platform
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("ssdnorm.ownership")

BEAT_SECONDS = 20.0
STALE_SECONDS = 300.0  # attributes of a file on NFS may be a minute old
PATIENCE_SECONDS = 4.0  # an owner that was told to stop may take this long

_CLAIM = re.compile(r"\.owner\.(?P<host>.+)\.(?P<pid>\d+)\.(?P<started>\d+)\.(?P<machine>[0-9a-f]{12})")


@contextlib.contextmanager
def owned_folder(folder: Path, *, further_patience: float = 0.0) -> Iterator[None]:
    """Own a folder, which is made if it is missing; a folder made here that stays empty is removed again.

    An owner whose file is removed by others is interrupted, as by Ctrl-C.

    Args:
        further_patience: seconds, beyond the usual few, to wait for another owner to stop or to be seen as gone.

    Raises:
        ValueError: another process owns the folder.
        OSError: the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    claim = _claim(folder, PATIENCE_SECONDS + further_patience)
    released = threading.Event()
    threading.Thread(target=_beat, args=(claim, released), daemon=True).start()
    try:
        yield
    finally:
        released.set()
        claim.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def _claim(folder: Path, patience: float) -> Path:
    pid = os.getpid()
    host = re.sub(r"[^\w-]", "_", platform.node())[:100] or "unknown"
    claim = folder / f".owner.{host}.{pid}.{_start_of(pid)}.{_machine()}"
    deadline = time.monotonic() + patience
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            claim.touch(exist_ok=False)
        except FileExistsError:
            raise ValueError(f"{folder}: in use by this very process") from None
        except OSError as error:
            if isinstance(error, FileNotFoundError) and time.monotonic() <= deadline:  # /proc refuses for ever
                time.sleep(0.01)  # removed meanwhile by one that made it and failed
                continue
            raise OSError(error.errno, os.strerror(error.errno or 0), str(folder)) from error
        try:
            owner = _other_owner(folder, claim)
        except BaseException:
            claim.unlink(missing_ok=True)
            raise
        if owner is None:
            return claim
        claim.unlink(missing_ok=True)
        if time.monotonic() > deadline:
            raise ValueError(f"{folder}: in use by {owner}; only one process may write to a run folder")
        time.sleep(random.SystemRandom().uniform(0.05, 0.5))  # training seeds the common generator


def _other_owner(folder: Path, ours: Path) -> str | None:
    """The first other owner that is not gone; removes the files of those that are."""
    now = ours.stat().st_mtime  # by the clock of the file system, not of this machine
    for path in folder.glob(".owner.*"):
        claim = _CLAIM.fullmatch(path.name)
        if claim is None or path.name == ours.name:
            continue
        with contextlib.suppress(FileNotFoundError):  # released meanwhile
            if claim["machine"] == _machine():
                there, advice = _start_of(int(claim["pid"])) == int(claim["started"]), ""
            else:
                there = now - path.stat().st_mtime < STALE_SECONDS
                advice = f" (if that is gone, wait {STALE_SECONDS / 60:.0f} minutes, or delete {path.name})"
            if there:
                return f"process {claim['pid']} on {claim['host']}{advice}"
            path.unlink()
    return None


def _beat(claim: Path, released: threading.Event) -> None:
    while not released.wait(BEAT_SECONDS):
        try:
            os.utime(claim)
        except FileNotFoundError:
            if not released.is_set():
                log.error("%s: no longer owned by this process, which stops", claim.parent)
                if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background job
                    os._exit(130)
                _thread.interrupt_main()
            return
        except OSError as error:  # a file server that comes back
            log.warning("%s: %s", claim.parent, error)


def _machine() -> str:
    """Of processes with the same, this one can tell whether they run: one boot of one machine, one space of ids."""
    try:
        identity = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        identity = platform.node()
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def _start_of(pid: int) -> int | None:
    """When a process began, in ticks since boot; 0 where only its existence is known, None if it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # somebody else's
        pass
    return 0
