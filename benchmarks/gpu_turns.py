"""This file is about candidates on a device, timed in turns: first calls, medians, peak memory, failures."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from benchmarks.table import interleaved

Call = Callable[[], Any]
Row = dict[str, Any]


def measure_in_turns(
    makes: Mapping[str, Callable[[], Call]], device: torch.device, *, calls: int, rounds: int, peer: str
) -> dict[str, Row]:
    """A row for each candidate. One that fails, for instance for lack of memory, says so and leaves the others.

    The first call is timed alone: what is compiled is compiled then, or taken from PyTorch's cache. The peak of memory
    is that of the second, the candidate's own weights included, the other candidates left out.

    Args:
        makes: build a candidate, by name.
        calls: of a candidate in one round, without waiting in between, as in training.
        rounds: in which each candidate has its turn; times are medians over them.
        peer: the candidate over which the others are faster.
    """
    forget(device)
    rows: dict[str, Row] = {name: {} for name in makes}
    built: dict[str, Call] = {}
    for name, make in makes.items():
        with failure_in([rows[name]]):
            before = _allocated(device)
            call = make()
            start = time.perf_counter()
            call()
            wait(device)
            rows[name]["first_call_s"] = time.perf_counter() - start
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            call()
            if device.type == "cuda":
                rows[name]["peak_gb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e9
            built[name] = partial(_repeat, call, calls)
    with failure_in([rows[name] for name in built]):
        times = interleaved(built, repeats=rounds, synchronize=partial(wait, device))
        for name in built:
            rows[name]["ms"] = times.ms(name) / calls
            rows[name]["times_faster"] = times.ratio(peer, name) if peer in built else None
    return rows


def seconds_a_call(call: Call, device: torch.device, *, calls: int, warm_up: int = 3) -> float:
    """Mean over calls that follow each other without waiting, as in training."""
    _repeat(call, warm_up)
    wait(device)
    start = time.perf_counter()
    _repeat(call, calls)
    wait(device)
    return (time.perf_counter() - start) / calls


@contextmanager
def failure_in(rows: list[Row]) -> Iterator[None]:
    """Put a failure of what runs within into rows of a table: the others are still worth having."""
    try:
        yield
    except RuntimeError as error:
        for row in rows:
            row["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:120]


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget(device: torch.device) -> None:
    """Give back memory and compiled code that nothing holds any more."""
    gc.collect()
    torch._dynamo.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _repeat(call: Call, number: int) -> None:
    for _ in range(number):
        call()


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
