"""Costs of an arm: parameters, memory, speed, latency."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from ssdnorm.compare.results import Costs, Run
from ssdnorm.compare.run_folders import images_per_second
from ssdnorm.detector import load_detector

_ROUNDS = 15
_WARM_UPS = 3


def costs_of(runs: Sequence[Run], root: Path, *, latency_ms: float | None) -> Costs:
    """Collect an arm's costs from its runs with the chosen learning rate."""
    finished = [run for run in runs if run.status == "finished"]
    speeds = [speed for run in finished if (speed := images_per_second(root / run.folder)) is not None]
    memory = [run.result["peak_memory_mib"] for run in finished]
    reached = [run.seconds_to_target for run in runs if run.seconds_to_target is not None]
    return Costs(
        parameters=finished[0].result["parameters"] if finished else None,
        images_per_second=float(np.mean(speeds)) if speeds else None,
        peak_memory_mib=max(memory) if memory else None,
        latency_ms=latency_ms,
        seconds_to_target=float(np.mean(reached)) if reached else None,
        num_reached=len(reached),
    )


def measure_latencies(
    checkpoints: Mapping[str, Path], image: Tensor, *, custom_norms: Collection[str] = ()
) -> dict[str, float]:
    """Milliseconds from an image to its detections by arm: median of rounds in which the arms take turns.

    Batch norms are folded into the convolutions. Runs on the GPU if there is one, else on one thread of the CPU, where
    its processor time is measured, which other programs do not affect.

    Args:
        checkpoints: arm → its trained weights.
        image: ``(3, H, W)`` uint8.
        custom_norms: as for ``load_detector``.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    detectors = {
        name: load_detector(path, fold=True, custom_norms=custom_norms).to(device) for name, path in checkpoints.items()
    }
    image = image.to(device)
    seconds: dict[str, list[float]] = {name: [] for name in detectors}
    clock = time.process_time if device.type == "cpu" else _synchronized_time
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(_WARM_UPS + _ROUNDS):
                for name, detector in detectors.items():
                    start = clock()
                    detector([image])
                    seconds[name].append(clock() - start)
    finally:
        torch.set_num_threads(threads)
    return {name: 1e3 * median(times[_WARM_UPS:]) for name, times in seconds.items()}


def _synchronized_time() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()
