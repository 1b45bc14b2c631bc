"""Recognise which system wrote a checkpoint, and convert it to this library's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ssdnorm.models.checkpoint import Checkpoint, read_checkpoint, read_metadata
from ssdnorm.models.foreign.families import FAMILIES
from ssdnorm.models.foreign.family import Family
from ssdnorm.models.tensor_files import read_tensors


def convert_tensors(
    tensors: Mapping[str, Tensor],
    *,
    where: str = "checkpoint",
    default_boxes: str | None = None,
    class_names: Sequence[str] | None = None,
) -> Checkpoint:
    """Convert another system's state dict to a checkpoint of this library, with the system's conventions.

    These are the mean and scale of the input, default boxes, order of classes and coordinates, and thresholds.

    Args:
        default_boxes: a name of ``DEFAULT_BOXES``, if not those that the system uses for this number of classes.
        class_names: without background; None takes VOC's or COCO's where their number fits.

    Raises:
        ValueError: an unknown system, or missing, unexpected or wrongly shaped tensors.
    """
    family = find_family(tensors)
    if family is None and "model.image_mean" in tensors:
        raise ValueError(f"{where}: a training checkpoint; the trained detector is model.safetensors beside it")
    if family is None:
        some = ", ".join(list(tensors)[:3])
        raise ValueError(
            f"{where}: no SSD-VGG16 of a known system; known are {', '.join(f.name for f in FAMILIES)} and this "
            f"library's own; the file begins with {some}. A VGG16 without a head is loaded as backbone weights"
        )
    return family.convert(tensors, where=where, default_boxes=default_boxes, class_names=class_names)


def find_family(tensors: Mapping[str, Tensor]) -> Family | None:
    """The system that wrote these tensors of an SSD; None if it is not known."""
    return next((family for family in FAMILIES if family.recognises(tensors)), None)


def read_any_checkpoint(
    path: Path, *, default_boxes: str | None = None, class_names: Sequence[str] | None = None
) -> Checkpoint:
    """Read a checkpoint of this library, or convert another system's. Arguments as for :func:`convert_tensors`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, damaged, or of an unknown system.
    """
    if path.suffix == ".safetensors" and path.is_file() and read_metadata(path).get("format", "").startswith("ssdnorm"):
        for name, given in (("default boxes", default_boxes), ("class names", class_names)):
            if given is not None:
                raise ValueError(f"{path}: a checkpoint of this library has its own {name}; omit them")
        return read_checkpoint(path)
    return convert_tensors(read_tensors(path), where=str(path), default_boxes=default_boxes, class_names=class_names)
