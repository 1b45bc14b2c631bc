"""This file is about refusing words of a command line that nothing takes, and devices that are not here."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ssdnorm.config_file import parse_overrides

_OF_EVALUATION = ("data", "post_process", "runtime", "training.batch_size", "training.precision")


def no_more_words(rest: Sequence[str]) -> None:
    """Refuse what no option of a command took.

    Raises:
        ValueError: naming the first word.
    """
    if rest:
        raise ValueError(f"unknown argument {rest[0]!r}; see --help")


def no_keys_of_training(rest: Sequence[str]) -> None:
    """Refuse config keys that change nothing where a model is trained already.

    Raises:
        ValueError: naming the first of them.
    """
    listed = ", ".join(_OF_EVALUATION)
    for room, values in parse_overrides(rest).items():
        for key in values if isinstance(values, dict) else ():
            if room not in _OF_EVALUATION and f"{room}.{key}" not in _OF_EVALUATION:
                raise ValueError(f"--{room}.{key}: changes nothing in a model that is trained; choose among: {listed}")


def usable_device(name: str | None) -> torch.device:
    """The device of that name; by default the GPU, where there is one.

    Raises:
        ValueError: if there is no such device here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "meta":
            raise ValueError("--device: meta computes nothing")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device: {name!r} cannot be used here; try cpu, cuda or cuda:1: {reason}") from error
    return device
