"""This file is about a family: what other systems' SSD checkpoints share, and the way from their names to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ssdnorm.boxes.default_boxes import DefaultBoxSpec, default_box_spec
from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.class_names import default_class_names
from ssdnorm.models.key_report import num_classes_of, report_mismatch
from ssdnorm.models.ssd import ssd300_vgg16, ssd512_vgg16

_CONVS_OF_STAGE = (2, 2, 3, 3, 3)
BACKBONE = [f"conv{i}_{j}" for i, n in enumerate(_CONVS_OF_STAGE, 1) for j in range(1, n + 1)] + ["fc6", "fc7"]
# Places of the 15 convolutions where VGG16's layers are counted through (torchvision, amdegroot, lufficc, mmdetection)
VGG_PLACES = dict(zip(BACKBONE, (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28, 31, 33), strict=True))
COCO_CLASSES = (81, 91, 201)  # of the published COCO models; 201 is amdegroot's

ImageSize = Literal[300, 512]


class Convert(Protocol):
    """Turns the tensors of one family into a checkpoint of this library."""

    def __call__(
        self, tensors: Mapping[str, Tensor], *, where: str, default_boxes: str | None, class_names: Sequence[str] | None
    ) -> Checkpoint: ...


@dataclass(frozen=True)
class Family:
    """One other system: its name, the sign by which its files are known, and the conversion."""

    name: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    convert: Convert


@dataclass(frozen=True)
class Meaning:
    """What a family means by its numbers; everything that is not in its tensors.

    Args:
        mean: of the input by R, G, B, on the scale 0 … 255.
        clip: which numbers of its default boxes are limited to [0, 1]; see ``DefaultBoxSpec``.
        post_process: arguments of ``PostProcess``; ``None`` for ``top_k`` and ``max_detections`` means no limit.
        dropout: in fc6 and fc7 during training.
    """

    mean: tuple[float, float, float]
    clip: Literal["none", "size", "all"]
    post_process: Mapping[str, Any]
    dropout: float = 0.0


def extras(size: ImageSize) -> list[str]:
    """Names of the extra layers, in order."""
    return [f"conv{n}_{i}" for n in range(8, 12 if size == 300 else 13) for i in (1, 2)]


def taps(size: ImageSize) -> list[str]:
    """Names of the taps, in order."""
    return ["conv4_3", "fc7", *(name for name in extras(size) if name.endswith("_2"))]


def layer_names(
    size: ImageSize, *, backbone: Mapping[str, str], extra: Sequence[str], locs: Sequence[str], logits: Sequence[str]
) -> dict[str, str]:
    """Layers of an SSD under our names → the family's, both without ``.weight`` and ``.bias``."""
    names = {f"features.backbone.{name}.conv": theirs for name, theirs in backbone.items()}
    names |= {f"features.extras.{name}.conv": theirs for name, theirs in zip(extras(size), extra, strict=True)}
    names |= {f"head.locs.{name}": theirs for name, theirs in zip(taps(size), locs, strict=True)}
    return names | {f"head.logits.{name}": theirs for name, theirs in zip(taps(size), logits, strict=True)}


def rename(
    tensors: Mapping[str, Tensor],
    layers: Mapping[str, str],
    scale: str,
    *,
    where: str,
    separator: str = ".",
    words: tuple[str, str] = ("weight", "bias"),
) -> dict[str, Tensor]:
    """The tensors under our names.

    Args:
        layers: our layer → theirs.
        scale: their name of L2Norm's weight.
        separator, words: how a layer's weight and bias are called.

    Raises:
        ValueError: listing the keys that are missing and those that are not expected.
    """
    names = {
        f"{ours}.{word}": f"{theirs}{separator}{their_word}"
        for ours, theirs in layers.items()
        for word, their_word in zip(("weight", "bias"), words, strict=True)
    }
    names["features.tap_norms.conv4_3.weight"] = scale
    wanted = dict.fromkeys(names.values(), ())
    if problem := report_mismatch(wanted, dict.fromkeys(tensors, ()), where=where):
        raise ValueError(problem)
    return {ours: tensors[theirs].float() for ours, theirs in names.items()}


def per_box(state: dict[str, Tensor], part: str, change: Callable[[Tensor], Tensor]) -> None:
    """Apply a change to the outputs of each default box, ``(boxes per cell, outputs, …)``, of a part."""
    for key in [key for key in state if key.startswith(f"head.{part}.")]:
        tap = key.split(".")[2]
        num_boxes = state[f"head.locs.{tap}.bias"].shape[0] // 4
        state[key] = change(state[key].unflatten(0, (num_boxes, -1))).flatten(0, 1)


def make_checkpoint(
    state: dict[str, Tensor],
    size: ImageSize,
    meaning: Meaning,
    *,
    where: str,
    boxes: str | DefaultBoxSpec,
    class_names: Sequence[str] | None,
) -> Checkpoint:
    """A checkpoint of this library out of renamed tensors and what they mean.

    Args:
        boxes: the default boxes; ``meaning.clip`` is applied to them.
        class_names: None takes VOC's 20 or COCO's 80 where the number fits.

    Raises:
        ValueError: for tensors of other shapes than SSD-VGG16's, or a wrong number of class names.
    """
    num_classes = num_classes_of({key: tuple(value.shape) for key, value in state.items()}) or 0
    spec = replace(default_box_spec(boxes, where="default_boxes"), clip=meaning.clip)
    if spec.image_size != size:
        raise ValueError(f"{where}: default boxes {boxes!r} are for {spec.image_size} pixels; the file is an SSD{size}")
    arguments: dict[str, Any] = {
        "num_classes": num_classes,
        "backbone_norm": "none",
        "extras_norm": "none",
        "tap_norms": {"conv4_3": "l2_norm"},
        "dropout": meaning.dropout,
        "default_boxes": spec,
        "width": 1.0,
    }
    if num_classes < 2:
        raise ValueError(f"{where}: the head has {num_classes} classes; 2 or more are needed, background included")
    std = (1 / 255,) * 3
    state = state | {"image_mean": torch.tensor([v / 255 for v in meaning.mean]), "image_std": torch.tensor(std)}
    with torch.device("meta"):
        model = (ssd300_vgg16 if size == 300 else ssd512_vgg16)(**arguments)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if problem := report_mismatch(expected, {key: tuple(value.shape) for key, value in state.items()}, where=where):
        raise ValueError(problem)
    names = list(class_names) if class_names is not None else default_class_names(num_classes - 1)
    if len(names) != num_classes - 1:
        raise ValueError(f"{where}: {len(names)} class names for {num_classes - 1} classes (background has none)")
    return Checkpoint(
        model={"name": f"ssd{size}_vgg16", **arguments},
        state={key: value.contiguous() for key, value in state.items()},
        class_names=names,
        post_process=_limits(meaning.post_process, spec, num_classes),
        antialias=False,
    )


def _limits(settings: Mapping[str, Any], spec: DefaultBoxSpec, num_classes: int) -> dict[str, Any]:
    limits = {"top_k": spec.num_boxes, "max_detections": spec.num_boxes * (num_classes - 1)}
    return {name: limits[name] if value is None else value for name, value in settings.items()}


def boxes_of(size: ImageSize, num_classes: int, given: str | None) -> str:
    """Name of the default boxes: those asked for, else COCO's for a COCO class count, else VOC's."""
    return given or f"ssd{size}_{'coco' if num_classes in COCO_CLASSES else 'voc'}"


def num_classes_at(tensors: Mapping[str, Tensor], conf: str, loc: str) -> int:
    """Classes, background included, from the biases of one tap's two convolutions; 0 where they are missing."""
    if conf not in tensors or loc not in tensors or tensors[loc].shape[0] < 4:
        return 0
    return tensors[conf].shape[0] // (tensors[loc].shape[0] // 4)
