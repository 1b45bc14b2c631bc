"""Checkpoints: a trained SSD and everything needed to use it, in one safetensors file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssdnorm.files import write_bytes
from ssdnorm.messages import shown
from ssdnorm.models.metadata import CheckpointMetadata
from ssdnorm.models.ssd import SSD
from ssdnorm.models.tensor_files import read_tensors
from ssdnorm.norm_specs import custom_norms
from ssdnorm.validation import validate

_FORMAT = "ssdnorm 1"
Shapes = Mapping[str, tuple[int, ...]]


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
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file, or cut off ({type(error).__name__})") from error


def check_types(state: Mapping[str, Tensor], *, where: str) -> None:
    """Raise ``ValueError`` for a tensor that is no dense array of floats; batch norm's counters are integers."""
    for name, tensor in state.items():
        is_counter = name.endswith("num_batches_tracked") and tensor.dtype == torch.int64
        if tensor.layout != torch.strided or not (tensor.is_floating_point() or is_counter):
            got = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
            raise ValueError(f"{where}: {shown(name)}: expected floating-point numbers; got {got}")


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def check_shapes(expected: Shapes, got: Shapes, *, where: str) -> None:
    """Compare the shapes in a file, ``got``, with those of a model.

    Raises:
        ValueError: lists missing, unexpected and wrongly shaped tensors in one line, with the likely reasons.
    """
    missing = [key for key in expected if key not in got]
    unexpected = [key for key in got if key not in expected]
    wrong = [key for key in expected if key in got and expected[key] != got[key]]
    if not (missing or unexpected or wrong):
        return
    shaped = [f"{key} {got[key]} in the file, {expected[key]} in the model" for key in wrong]
    groups = (("missing", missing), ("unexpected", unexpected), ("wrongly shaped", shaped))
    parts = [f"{name} ({len(keys)}): {first_few(keys)}" for name, keys in groups if keys]
    reasons = _likely_reasons(expected, got, [*missing, *unexpected], wrong)
    because = f". Likely: {'; '.join(reasons)}" if reasons else ""
    raise ValueError(f"{where}: does not fit the model; {'; '.join(parts)}{because}")


def num_classes_of(shapes: Shapes) -> int | None:
    """Number of classes, background included, of an SSD with these shapes; None without a head."""
    logits = next((shape[0] for key, shape in shapes.items() if key.startswith("head.logits.") and shape), None)
    locs = next((shape[0] for key, shape in shapes.items() if key.startswith("head.locs.") and shape), None)
    return None if not logits or not locs or locs < 4 else logits // (locs // 4)


def first_few(names: Sequence[str]) -> str:
    """The first four names, short whatever they are, and the number of the others."""
    listed = ", ".join(name if len(name) < 120 else shown(name) for name in names[:4])
    return f"{listed} and {len(names) - 4} more" if len(names) > 4 else listed


def is_norm_key(key: str) -> bool:
    """Whether a tensor name belongs to a conv norm or a tap norm of an SSD."""
    return ".norm." in key or key.startswith("features.tap_norms.")


def _likely_reasons(expected: Shapes, got: Shapes, absent: Sequence[str], wrong: Sequence[str]) -> list[str]:
    reasons = []
    in_file, in_model = num_classes_of(got), num_classes_of(expected)
    if in_file != in_model and None not in (in_file, in_model):
        reasons.append(
            f"{in_file} classes in the file, {in_model} in the model: pass num_classes={in_file} or head: fresh"
        )
    first = "features.backbone.conv1_1.conv.weight"
    if first in wrong:
        reasons.append(f"{got[first][0]} channels at conv1_1 in the file, {expected[first][0]} in the model: set width")
    if any("conv12_" in key for key in absent):
        file, model = ("SSD512", "SSD300") if any("conv12_" in key for key in got) else ("SSD300", "SSD512")
        reasons.append(f"an {file} in the file, an {model} in the model")
    if any(is_norm_key(key) for key in absent):
        reasons.append("file and model have different norms: build the model with those of the file")
    return reasons
