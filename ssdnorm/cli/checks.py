"""Check what several commands take: paths and numbers, runs, thresholds, devices."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssdnorm.messages import shown
from ssdnorm.norm_specs import is_custom

if TYPE_CHECKING:
    import torch

_UNUSABLE = {"meta": "computes nothing", "mps": "has no float64, which NMS needs"}


def one_or_more(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; got {text}")
    return int(text)


def given_path(text: str) -> Path:
    """A path that is not empty, as of a shell's variable without a value."""
    if not text:
        raise argparse.ArgumentTypeError("a path is needed; got an empty one")
    return Path(text)


def existing_path(text: str) -> Path:
    """A file or folder that is there."""
    path = given_path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"{path}: no such file or folder")
    return path


def output_folder(text: str) -> Path:
    """A folder, or a path where there is nothing yet."""
    path = given_path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file; a folder is needed")
    return path


def output_file(text: str) -> Path:
    """A path where no folder is."""
    path = given_path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; a file is written")
    return path


PATHS = (
    Path,
    given_path,
    existing_path,
    output_folder,
    output_file,
)  # types of options that a shell completes with files


def threshold(text: str) -> float | str:
    """``best``, or a score."""
    if text != "best" and not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"must lie in [0, 1); got {text}")
    return text if text == "best" else float(text)


def add_device_key(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, short for the config's ``runtime.accelerator``."""
    meaning = "short for --runtime.accelerator; CUDA_VISIBLE_DEVICES=1 chooses one of several GPUs"
    parser.add_argument("--device", dest="runtime.accelerator", choices=("cpu", "cuda"), help=meaning)


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


def weights_and_config(arguments: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The checkpoint and the config: of ``--run``, or those of ``--checkpoint`` and ``--config``."""
    if arguments.run is None:
        return arguments.checkpoint, arguments.config
    if arguments.config is not None:
        raise ValueError("--config: a run has its own config; give --checkpoint with --config instead")
    return arguments.run / "checkpoints" / "model.safetensors", arguments.run / "config.yaml"


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
