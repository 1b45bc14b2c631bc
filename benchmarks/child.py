"""Measure a call in a fresh process: processor time of all its threads, and the memory that it takes."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Run:
    """One call: its value, processor seconds, and growth of the child's peak memory in MB."""

    value: Any
    seconds: float
    peak_mb: float


def run_in_child(call: Callable[[], Any]) -> Run:
    """Call it in a process of its own, which shares no thread pool with this one; the call must be picklable.

    Raises:
        RuntimeError: if the process dies.
    """
    context = multiprocessing.get_context("forkserver")  # a fork of this process may wait for threads it does not have
    context.set_forkserver_preload(["benchmarks.evaluation", "benchmarks.voc"])
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_send_run, args=(call, send))
    child.start()
    send.close()
    try:
        run: Run = receive.recv()
    except EOFError:
        raise RuntimeError("a measured process died before it had a result; its message stands above") from None
    finally:
        child.join()
    return run


def in_turns(
    calls: Mapping[str, Callable[[], Any]], rounds: int, *, once: tuple[str, ...] = ()
) -> dict[str, list[Run]]:
    """Runs of every call, one per round in turn.

    Args:
        once: calls that only the first round measures.
    """
    runs: dict[str, list[Run]] = {name: [] for name in calls}
    for round_ in range(rounds):
        for name, call in calls.items():
            if round_ == 0 or name not in once:
                runs[name].append(run_in_child(call))
    return runs


def _send_run(call: Callable[[], Any], send: Connection) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    value = call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    send.send(Run(value, seconds, (after.ru_maxrss - before.ru_maxrss) / 1024))
