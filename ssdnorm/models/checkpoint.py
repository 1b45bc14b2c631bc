"""This file is about checkpoints: a trained SSD with all that it takes to use it, as one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssdnorm.files import replaced_file
from ssdnorm.models.key_report import report_mismatch
from ssdnorm.models.ssd import SSD

_FORMAT = "ssdnorm 1"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        model: name and arguments with which the model is built.
        state: its parameters and buffers.
        class_names: of the labels 1, 2, …
        post_process: arguments of ``PostProcess``.
        antialias: whether the images that it was trained on were resized with antialiasing.
    """

    model: dict[str, Any]
    state: Mapping[str, Tensor]
    class_names: Sequence[str]
    post_process: dict[str, Any] = field(default_factory=dict)
    antialias: bool = True

    def load_into(self, model: SSD, *, where: str = "checkpoint") -> None:
        """Load the state, strictly.

        Raises:
            ValueError: listing missing, unexpected and wrongly shaped tensors, with the likely reason.
        """
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        got = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        if problem := report_mismatch(expected, got, where=where):
            raise ValueError(problem)
        model.load_state_dict(dict(self.state))


def save_checkpoint(
    path: Path, model: SSD, *, class_names: Sequence[str], post_process: Mapping[str, Any], antialias: bool = True
) -> None:
    """Write a model with its arguments, whole or not at all.

    Raises:
        ValueError: if the model was put together by hand, so that nothing tells how to build it again.
    """
    if model.arguments is None:
        raise ValueError("save_checkpoint: only a model made by ssd300_vgg16 or ssd512_vgg16 can be built again")
    write_checkpoint(
        path, Checkpoint(model.arguments, model.state_dict(), class_names, dict(post_process), antialias=antialias)
    )


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    about = {
        "model": checkpoint.model,
        "class_names": list(checkpoint.class_names),
        "post_process": checkpoint.post_process,
        "antialias": checkpoint.antialias,
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
    metadata = {"format": _FORMAT, "about": json.dumps(about, default=asdict)}
    with replaced_file(path) as unfinished:
        unfinished.write_bytes(save(state, metadata))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what :func:`save_checkpoint` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not one of ours, or cut off.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file, or cut off") from error
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{path}: not a checkpoint of ssdnorm (format {metadata.get('format')!r}, expected {_FORMAT!r})"
        )
    return Checkpoint(state=state, **json.loads(metadata["about"]))
