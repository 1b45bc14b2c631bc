"""Decide what a config leaves to the machine and the data: each ``auto``, epochs and shares of the run."""

from __future__ import annotations

import math

from ssdnorm.build import build_dataset, model_of_shapes, num_processes
from ssdnorm.config import Config
from ssdnorm.engine.memory import choose_batch_size, free_memory
from ssdnorm.engine.precision import choose_precision, device_of
from ssdnorm.resize import height_and_width


def settle(config: Config, *, num_images: int | None = None) -> Config:
    """Decide what a config leaves to the machine and the data: each ``auto``, epochs and shares in steps.

    Args:
        num_images: of the training set; otherwise it is read where epochs need it.
    """
    config = _settle_batch_size(settle_precision(config))
    if num_images is None:
        num_images = 1 if config.training.epochs is None else len(build_dataset(config, "train"))
    training = config.training
    return in_steps(config, training.batch_images * training.accumulate * num_processes(config), num_images)


def settle_precision(config: Config) -> Config:
    """Replace ``training.precision: auto`` by what :func:`choose_precision` measures on the device."""
    if config.training.precision != "auto":
        return config
    return config.with_values("training", precision=choose_precision(config.runtime.accelerator))


def in_steps(config: Config, images_per_step: int, num_images: int) -> Config:
    """The same training with its epochs and shares turned into steps; a config that has none is returned as it is.

    Args:
        images_per_step: of all processes together.
        num_images: of the training set.

    Raises:
        ValueError: ``optimizer.lr_drops``, in steps, reaches past the end.
    """
    training, optimizer = config.training, config.optimizer
    max_steps = training.max_steps
    if max_steps is None:
        assert training.epochs is not None
        max_steps = max(1, math.ceil(training.epochs * num_images / images_per_step))

    def steps(value: float | None) -> int | None:
        return max(1, round(value * max_steps)) if isinstance(value, float) else value

    drops = [steps(drop) for drop in optimizer.lr_drops]
    if any(drop >= max_steps for drop in optimizer.lr_drops):
        raise ValueError(f"optimizer.lr_drops: {drops} reaches past the {max_steps} steps of the run")
    config = config.with_values("optimizer", lr_drops=drops, warmup_steps=steps(optimizer.warmup_steps))
    return config.with_values("training", max_steps=max_steps, epochs=None, eval_every=steps(training.eval_every))


def _settle_batch_size(config: Config) -> Config:
    if config.training.batch_size != "auto":
        return config
    if (processes := num_processes(config)) > 1:
        raise ValueError(f"training.batch_size: auto is for one device; give a number for {processes}")
    model = model_of_shapes(config)
    try:
        shape = (3, *height_and_width(model.image_size))
        batch_size = choose_batch_size(model, shape, free_bytes=free_memory(device_of(config.runtime.accelerator)))
    except ValueError as error:
        raise ValueError(f"training.{error}") from error
    return config.with_values("training", batch_size=batch_size)
