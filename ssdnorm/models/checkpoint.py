"""Checkpoints: a trained SSD and everything needed to use it, in one safetensors file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ssdnorm.files import write_bytes
from ssdnorm.messages import shown
from ssdnorm.models.metadata import CheckpointMetadata
from ssdnorm.models.ssd import SSD
from ssdnorm.models.tensor_files import check_types, read_tensors, readable
from ssdnorm.norm_specs import custom_norms
from ssdnorm.validation import validate

_FORMAT = "ssdnorm 1"


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint.

    Args:
        model: name and arguments of the function that builds the model.
        state: parameters and buffers by name.
        class_names: of the labels 1, 2, …
        post_process: arguments of ``PostProcess``.
        antialias: whether the training images were resized with antialiasing.
        thresholds: the score to ask for by class name, where F1 was highest on the images evaluated; None if unknown.
    """

    model: dict[str, Any]
    state: Mapping[str, Tensor]
    class_names: Sequence[str]
    post_process: dict[str, Any] = field(default_factory=dict)
    antialias: bool = True
    thresholds: dict[str, float] | None = None

    @property
    def custom_norms(self) -> set[str]:
        """The custom norms of the model, as ``"package.module:Class"``."""
        model = self.model
        return custom_norms(model["backbone_norm"], model["extras_norm"], *model["tap_norms"].values())


def save_checkpoint(
    path: Path,
    model: SSD,
    *,
    class_names: Sequence[str],
    post_process: Mapping[str, Any],
    antialias: bool = True,
    thresholds: dict[str, float] | None = None,
) -> None:
    """Write a model and the arguments that build it, atomically.

    Raises:
        ValueError: the model was not made by ``ssd300_vgg16``, ``ssd512_vgg16`` or ``ssd_vgg16`` from norm specs, so it
            could not be built again.
    """
    if model.arguments is None:
        raise ValueError(
            "save_checkpoint: only a model of ssd300_vgg16, ssd512_vgg16 or ssd_vgg16 with norms by spec, not folded, "
            "can be built again"
        )
    state = model.state_dict()
    write_checkpoint(path, Checkpoint(model.arguments, state, class_names, dict(post_process), antialias, thresholds))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    about = {name: value for name, value in vars(checkpoint).items() if name != "state"}
    state: dict[str, Tensor] = {}
    storages = set()
    for name, value in checkpoint.state.items():
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        state[name] = tensor.clone() if storage in storages else tensor  # safetensors refuses shared memory
        storages.add(storage)
    metadata = {"format": _FORMAT, "about": json.dumps(about, default=asdict)}
    write_bytes(path, _reproducible(save(state, metadata)))


def _reproducible(content: bytes) -> bytes:
    """A safetensors file with sorted metadata, which the library writes in a random order."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read what :func:`save_checkpoint` wrote; runs no code, opens no other file, takes the memory of its tensors.

    Raises:
        FileNotFoundError, ValueError: as :func:`read_metadata`; another format; metadata that this library does not
            write; tensors of another type than a network's.
    """
    metadata = read_metadata(path)
    if (got := metadata.get("format")) != _FORMAT:
        raise ValueError(f"{path}: not a checkpoint of ssdnorm (format {shown(got)}, expected {_FORMAT!r})")
    about = validate(CheckpointMetadata, metadata.get("about", ""), lambda _: f"{path}: metadata")
    state = read_tensors(path)
    check_types(state, where=str(path))
    return Checkpoint(state=state, **about.model_dump(exclude_unset=True))


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a safetensors file, or truncated.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    with readable(path, "safetensors file"), safe_open(path, framework="pt") as file:
        return file.metadata() or {}
