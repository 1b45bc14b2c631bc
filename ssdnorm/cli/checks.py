"""Check what several commands take: extra arguments, config keys of an evaluation, devices."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ssdnorm.config_file import parse_overrides
from ssdnorm.messages import shown
from ssdnorm.norm_specs import is_custom

if TYPE_CHECKING:
    import torch

_OF_EVALUATION = (
    *("data.class_names", "data.test", "data.on_bad_annotation", "post_process"),
    *("runtime.devices", "runtime.accelerator", "runtime.num_nodes", "runtime.num_workers"),
    *("training.batch_size", "training.precision"),
)
_UNUSABLE = {"meta": "computes nothing", "mps": "has no float64, which NMS needs"}


def add_allow_norm(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--allow-norm`` to a command that loads checkpoints; ``allow_norm`` is for ``load_detector``."""
    parser.add_argument(
        "--allow-norm",
        action="append",
        default=[],
        type=_custom_norm,
        metavar="MODULE:CLASS",
        help="a custom norm class that the checkpoint may name; its code runs; can be repeated",
    )


def _custom_norm(text: str) -> str:
    if not is_custom(text):
        raise argparse.ArgumentTypeError(f"expected package.module:Class; got {shown(text)}")
    return text


def check_evaluation_keys(rest: Sequence[str], *, test_given: bool = False) -> None:
    """Raise ``ValueError`` for config keys that have no effect once a model is trained.

    Args:
        test_given: whether ``--annotations`` takes the place of ``data.test``.
    """
    allowed = [name for name in _OF_EVALUATION if not (test_given and name == "data.test")]
    for key in parse_overrides(rest):
        if test_given and key.split(".")[:2] == ["data", "test"]:
            raise ValueError(f"--{key}: does not go with --annotations, which takes the place of data.test")
        if not any(key == name or key.startswith(f"{name}.") for name in allowed):
            raise ValueError(f"--{key}: has no effect on a trained model; choose among: {', '.join(allowed)}")


def parse_threshold(text: str) -> float | str:
    """``best``, or a score; argparse's own error for anything else."""
    return text if text == "best" else float(text)


def stored_thresholds(thresholds: Mapping[str, float] | None, class_names: Sequence[str], where: object) -> list[float]:
    """The thresholds stored in a file, in the order of its classes; ``ValueError`` if it has none."""
    if thresholds is None:
        raise ValueError(
            f"--threshold: best: {where} holds none; evaluate --checkpoint … --store-thresholds finds and stores them"
        )
    return [thresholds[name] for name in class_names]


def parse_device(name: str | None) -> torch.device:
    """The device of that name, by default the GPU where there is one; ``ValueError`` if it cannot be used here."""
    import torch  # not for those who ask for --help

    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type in _UNUSABLE:
            raise ValueError(f"--device: {device.type} {_UNUSABLE[device.type]}; choose cpu or cuda")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device: {name!r} cannot be used here; try cpu, cuda or cuda:1: {reason}") from error
    return device
