"""Time candidates in turns on any device: medians, ratios, peak memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

Call = Callable[[], Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What the benchmark command hands to every subject: ``benchmarks.<subject>.measure(settings) -> Table``.

    Args:
        device: where networks, losses and layers run; data and metrics always run on the host.
        quick: few rounds and small sizes, a few seconds per subject.
        bf16: measure bf16 too; worthwhile where the device has bf16 instructions.
        compiled: measure compiled networks too, which takes up to two minutes each on a CPU.
        images: folder of JPEGs; None draws some.
        workers: loading processes of ``loader``.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    quick: bool = False
    bf16: bool = False
    compiled: bool = False
    images: Path | None = None
    workers: int = 16

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def clock(self) -> Callable[[], float]:
        """Processor time for one thread of the host, which leaves out other programs; otherwise wall time."""
        alone = not self.on_gpu and torch.get_num_threads() == 1
        return time.process_time if alone else time.perf_counter

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Times:
    """Seconds of each candidate in each round."""

    seconds: Mapping[Any, list[float]]

    def ms(self, name: Any) -> float:
        """Median over the rounds, milliseconds."""
        return 1e3 * median(self.seconds[name])

    def ratio(self, peer: Any, ours: Any) -> float:
        """How many times faster ``ours`` is than ``peer``: the median over the rounds of their ratio."""
        return median(a / b for a, b in zip(self.seconds[peer], self.seconds[ours], strict=True))


def interleaved(
    candidates: Mapping[Any, Call],
    *,
    rounds: int,
    warm_up: int = 1,
    synchronize: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Run each candidate once per round, so that other work on the machine affects all of them alike.

    Args:
        rounds: that count.
        warm_up: rounds before them that do not.
        synchronize: waits for the device, before and after each call.
        clock: gives seconds.
    """
    seconds: dict[Any, list[float]] = {name: [] for name in candidates}
    for round_ in range(warm_up + rounds):
        for name, call in candidates.items():
            synchronize()
            start = clock()
            call()
            synchronize()
            if round_ >= warm_up:
                seconds[name].append(clock() - start)
    return Times(seconds)


def compare(
    makes: Mapping[str, Callable[[], Call]], settings: Settings, *, peer: str, rounds: int, calls: int = 1
) -> dict[str, Row]:
    """Build candidates and time them in turns; a row each.

    A candidate that fails, for instance for lack of memory, says so in its row and leaves the others. Peak memory (on
    a GPU) includes the candidate's own weights and leaves out the other candidates.

    Args:
        makes: build a candidate, by name.
        peer: the candidate that the others are compared with.
        rounds: in which each candidate takes its turn; times are medians over them.
        calls: of a candidate per round, without waiting in between, as in training.
    """
    free_memory(settings)
    rows: dict[str, Row] = {name: {} for name in makes}
    built: dict[str, Call] = {}
    for name, make in makes.items():
        before = torch.cuda.memory_allocated(settings.device) if settings.on_gpu else 0
        try:
            call = make()
            start = time.perf_counter()
            call()
            settings.synchronize()
            if "compiled" in name:
                rows[name]["first_call_s"] = time.perf_counter() - start
            if settings.on_gpu:
                torch.cuda.reset_peak_memory_stats(settings.device)
                call()
                rows[name]["peak_GB"] = (torch.cuda.max_memory_allocated(settings.device) - before) / 1e9
        except RuntimeError as error:
            rows[name]["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
            continue
        built[name] = repeated(call, calls)
    times = interleaved(built, rounds=rounds, warm_up=0, synchronize=settings.synchronize, clock=settings.clock)
    for name in built:
        rows[name]["ms"] = times.ms(name) / calls
        if peer in built:
            rows[name]["speedup"] = times.ratio(peer, name)
    return rows


def ready(calls: Mapping[str, Call]) -> dict[str, Callable[[], Call]]:
    """Candidates that are built already, as :func:`compare` takes them."""
    return {name: lambda call=call: call for name, call in calls.items()}  # type: ignore[misc]


def seconds_per_call(
    call: Call, settings: Settings, *, calls: int, warm_up: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Mean over calls that follow each other without waiting, as in training."""
    repeated(call, warm_up)()
    settings.synchronize()
    start = clock()
    repeated(call, calls)()
    settings.synchronize()
    return (clock() - start) / calls


def repeated(call: Call, number: int) -> Call:
    """``number`` calls in one."""

    def run() -> None:
        for _ in range(number):
            call()

    return run


def free_memory(settings: Settings) -> None:
    """Release memory that nothing refers to any longer."""
    gc.collect()
    if settings.on_gpu:
        torch.cuda.empty_cache()
