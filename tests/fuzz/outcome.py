"""What a hostile input may lead to: a result, or a refusal of one line that this library wrote."""

from __future__ import annotations

import resource
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ssdnorm

_LIBRARY = str(Path(ssdnorm.__file__).parent)
_MEMORY = 2 * 2**30  # bytes beyond those in use
_SECONDS = 120  # against hangs; a busy machine is slow as well
_LONGEST_MESSAGE = 1000


class Hang(BaseException):
    """The time is up."""


def failure(run: Callable[[Any], object], case: Any, *, seconds: int = _SECONDS) -> str:
    """Run a case; nothing for a result or a refusal, else what happened and where.

    A refusal is what the command line turns into one line and exit code 2: ``OSError``, or ``ValueError`` from a line
    of this library with a message of at most 1,000 characters. A warning of Python counts as a failure.
    """
    try:
        with _alarm(seconds), warnings.catch_warnings():
            warnings.simplefilter("error")
            run(case)
    except OSError as error:
        return _too_long(error)
    except ValueError as error:
        if type(error) is ValueError and traceback.extract_tb(error.__traceback__)[-1].filename.startswith(_LIBRARY):
            return _too_long(error)
        return _described(error)
    except Hang as error:
        return _described(error)
    except Exception as error:
        return _described(error)
    return ""


@contextmanager
def memory_limit() -> Iterator[None]:
    """Let allocations of more than 2 GiB beyond what is in use fail, where Linux counts them."""
    status = Path("/proc/self/status")
    if not status.exists():
        yield
        return
    in_use = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmData"))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (in_use + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang(f"no answer in {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _too_long(error: Exception) -> str:
    return (
        f"a message of {len(str(error))} characters: {_described(error)}" if len(str(error)) > _LONGEST_MESSAGE else ""
    )


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(_LIBRARY)] or frames[-1:]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}"
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:150]}"
