"""Choose between float32 and bf16-mixed by a short multiplication on the device."""

from __future__ import annotations

import logging
import time
from functools import cache

import torch

log = logging.getLogger("ssdnorm.engine")

_LEAST_GAIN = 1.3  # bf16-mixed also casts; AMX and GPUs gain 3 and more, processors without bf16 lose
_SIDE = {"cpu": 768, "cuda": 4096}  # a multiplication of some 20 ms on one core, of under 10 ms on a GPU
_ROUNDS = 5


def choose_precision(accelerator: str) -> str:
    """``bf16-mixed`` where bfloat16 matrices are multiplied at least 1.3 times as fast as float32, else ``32-true``.

    Args:
        accelerator: cpu, auto, gpu, … as in the config's ``runtime``.
    """
    device = device_of(accelerator)
    try:
        gain = multiplication_seconds(device, torch.float32) / multiplication_seconds(device, torch.bfloat16)
    except RuntimeError as error:  # a device without bfloat16
        log.info("precision: auto is 32-true; %s has no bfloat16: %s", device, str(error).splitlines()[0])
        return "32-true"
    chosen = "bf16-mixed" if gain >= _LEAST_GAIN else "32-true"
    log.info("precision: auto is %s; bfloat16 multiplies %.2g times as fast as float32 on %s", chosen, gain, device)
    return chosen


def device_of(accelerator: str) -> torch.device:
    """The device that a training runs on: the machine's accelerator if it has one and may use it, else the CPU."""
    here = None if accelerator == "cpu" else torch.accelerator.current_accelerator(check_available=True)
    return here or torch.device("cpu")


@cache
def multiplication_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of one square matrix multiplication, the fastest of a few; measured once per process."""
    side = _SIDE.get(device.type, _SIDE["cpu"])
    a = torch.ones(side, side, dtype=dtype, device=device)
    seconds = []
    for _ in range(1 + _ROUNDS):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # reading an element waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
