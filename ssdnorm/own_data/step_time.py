"""Estimate how long a training will take here."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from ssdnorm.build import build_loss, build_model
from ssdnorm.config import Config
from ssdnorm.engine.precision import device_of
from ssdnorm.resize import height_and_width
from ssdnorm.settle import settle


def time_of_training(config: Config, class_names: Sequence[str]) -> str:
    """Words on the time that a training will take on this machine, from one measured step.

    On a CPU two images are measured instead of a batch, since the time grows with their number.
    """
    config = settle(config)
    drawn = config.with_values("model", weights=None, checkpoint=None, head="keep", freeze=[])
    model = build_model(drawn, 1 + len(class_names)).train()
    loss = build_loss(config, model, class_names)
    device = device_of(config.runtime.accelerator)
    on_cpu = device.type == "cpu"
    batch = config.training.batch_images
    measured = min(batch, 2) if on_cpu else batch
    images = torch.rand(measured, 3, *height_and_width(model.image_size)).to(device, memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)
    model.to(device)
    loss.to(device)
    boxes = torch.tensor([0.3, 0.3, 0.6, 0.6], device=device).expand(measured, 1, 4)
    labels = torch.ones(measured, 1, dtype=torch.long, device=device)
    reduced = torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision.startswith("bf16"))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with reduced:
            total = torch.stack(list(loss(model(images), boxes, labels).values())).sum()
        total.backward()
        if not on_cpu:
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    step = min(seconds[1:]) * batch / measured * config.training.accumulate
    minutes = step * config.training.num_steps / 60
    length = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} hours"
    return f"about {length} at {step:.2g} s per step, measured now on {device.type}; reading and evaluation come on top"
