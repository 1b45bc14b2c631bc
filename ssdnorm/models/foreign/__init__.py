"""This file is about foreign checkpoints: which system wrote a file, and its conversion to ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssdnorm.models.checkpoint import Checkpoint, read_checkpoint
from ssdnorm.models.foreign import amdegroot, balancap, chainercv, lufficc, mmdetection, torchvision
from ssdnorm.models.foreign.family import Family
from ssdnorm.models.tensor_files import read_tensors

FAMILIES: tuple[Family, ...] = (
    torchvision.FAMILY,
    amdegroot.FAMILY,
    lufficc.FAMILY,
    mmdetection.FAMILY,
    balancap.FAMILY,
    chainercv.FAMILY,
)


def recognise(tensors: Mapping[str, Tensor]) -> Family | None:
    """The family whose SSD the tensors are, by their names; None if it is none of them."""
    return next((family for family in FAMILIES if family.recognises(tensors)), None)


def convert_tensors(
    tensors: Mapping[str, Tensor],
    *,
    where: str = "checkpoint",
    default_boxes: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Checkpoint:
    """Another system's state dict as a checkpoint of this library.

    Carried over is what the family means by its numbers: order, mean and scale of the input, default boxes and their
    clipping, order of classes and coordinates, score and NMS settings.

    Args:
        where: the file, for messages.
        default_boxes: a name of ``DEFAULT_BOXES``, if they are not those that the family has for that many classes.
        class_names: without background; None takes VOC's or COCO's where their number fits.

    Raises:
        ValueError: for an unknown family, and for missing, unexpected or wrongly shaped tensors.
    """
    family = recognise(tensors)
    if family is None and "model.image_mean" in tensors:
        raise ValueError(f"{where}: what --resume goes on from; the trained detector is model.safetensors beside it")
    if family is None:
        some = ", ".join(list(tensors)[:3])
        raise ValueError(
            f"{where}: no SSD-VGG16 of a known system; known are {', '.join(f.name for f in FAMILIES)} and this "
            f"library's own; the file begins with {some}. A VGG16 alone goes to model.weights"
        )
    return family.convert(tensors, where=where, default_boxes=default_boxes, class_names=class_names)


def read_any_checkpoint(
    path: Path, *, default_boxes: str | None = None, class_names: Sequence[str] | None = None
) -> Checkpoint:
    """A checkpoint of this library, or another system's file, converted. Arguments as :func:`convert_tensors`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: in one line, if it is not a checkpoint, damaged, or of an unknown system.
    """
    if path.suffix == ".safetensors" and path.is_file() and _is_ours(path):
        for name, given in (("default boxes", default_boxes), ("class names", class_names)):
            if given is not None:
                raise ValueError(f"{path}: a checkpoint of this library names its own {name}; leave them out")
        return read_checkpoint(path)
    return convert_tensors(read_tensors(path), where=str(path), default_boxes=default_boxes, class_names=class_names)


def _is_ours(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format", "")).startswith("ssdnorm")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file, or cut off ({type(error).__name__})") from error
