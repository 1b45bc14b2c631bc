"""Convert SSD checkpoints of another system: rename its tensors and carry over the meaning of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ssdnorm.boxes.default_boxes import DefaultBoxSpec, default_box_spec
from ssdnorm.messages import one_line
from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.class_names import default_class_names
from ssdnorm.models.ssd import ssd300_vgg16, ssd512_vgg16
from ssdnorm.models.tensor_files import check_shapes, check_types, num_classes_of, shapes_of
from ssdnorm.models.vgg import VGG16_CONVS

BACKBONE = (*VGG16_CONVS, "fc6", "fc7")
_COCO_CLASSES = (81, 91, 201)  # class counts of the published COCO models; 201 is amdegroot's

ImageSize = Literal[300, 512]
State = dict[str, Tensor]


def voc_or_coco_boxes(size: ImageSize, num_classes: int) -> DefaultBoxSpec:
    """COCO's default boxes for a class count of COCO, else VOC's."""
    return default_box_spec(f"ssd{size}_{'coco' if num_classes in _COCO_CLASSES else 'voc'}")


@dataclass(frozen=True)
class Family:
    """The SSD checkpoints of one other system.

    Args:
        name: of the system.
        marks: beginnings of tensor names that only this system's files have.
        backbone: their layers, without weight and bias, in the order of ``BACKBONE``.
        extras: pair of extra layers, 0 or 1 within the pair → their layer.
        locs, logits: their layers of the head; ``{i}`` is the tap's place, ``{block}`` its number in TF-slim's VGG.
        scale: their name of L2Norm's weight.
        mean: of the input by R, G, B, on the scale 0 … 255; the std is 1.
        clip: which coordinates of the default boxes are clipped to [0, 1]; see ``DefaultBoxSpec``.
        post_process: arguments of ``PostProcess``; None for ``top_k`` or ``max_detections`` means no limit.
        dropout: in fc6 and fc7 during training.
        prefix: of all layers; ``{size}`` is the image size.
        mark_512: beginning of a tensor name that only the system's SSD512 has; None where it has no SSD512.
        suffixes: of a layer's weight and bias.
        ignores: tensor name → whether the tensor is not part of the model.
        rearrange: changes the renamed tensors where their layout differs from ours.
        default_boxes: image size, number of classes → default boxes.
    """

    name: str
    marks: tuple[str, ...]
    backbone: Sequence[str]
    extras: Callable[[int, int], str]
    locs: str
    logits: str
    scale: str
    post_process: Mapping[str, Any]
    mean: tuple[float, float, float] = (123.0, 117.0, 104.0)  # of Caffe's SSD
    clip: Literal["none", "size", "all"] = "none"
    dropout: float = 0.0
    prefix: str = ""
    mark_512: str | None = None
    suffixes: tuple[str, str] = (".weight", ".bias")
    ignores: Callable[[str], bool] = lambda name: False
    rearrange: Callable[[State], State] = lambda state: state
    default_boxes: Callable[[ImageSize, int], DefaultBoxSpec] = voc_or_coco_boxes

    def recognises(self, tensors: Iterable[str]) -> bool:
        """Whether tensors of these names are a checkpoint of this system."""
        return any(name.startswith(self.marks) for name in tensors)

    def names(self, size: ImageSize) -> dict[str, str]:
        """Our parameter names → theirs."""
        layers = {
            f"features.backbone.{name}.conv": theirs for name, theirs in zip(BACKBONE, self.backbone, strict=True)
        }
        taps = {"conv4_3": 4, "fc7": 7}  # name -> block
        for pair in range(4 if size == 300 else 5):
            layers |= {f"features.extras.conv{8 + pair}_{1 + half}.conv": self.extras(pair, half) for half in (0, 1)}
            taps[f"conv{8 + pair}_2"] = 8 + pair
        for i, (name, block) in enumerate(taps.items()):
            layers[f"head.locs.{name}"] = self.locs.format(i=i, block=block)
            layers[f"head.logits.{name}"] = self.logits.format(i=i, block=block)
        names = {
            ours + suffix: theirs + their_suffix
            for ours, theirs in layers.items()
            for suffix, their_suffix in zip((".weight", ".bias"), self.suffixes, strict=True)
        } | {"features.tap_norms.conv4_3.weight": self.scale}
        prefix = self.prefix.format(size=size)
        return {ours: prefix + theirs for ours, theirs in names.items()}

    def convert(
        self,
        tensors: Mapping[str, Tensor],
        *,
        where: str,
        default_boxes: str | None,
        class_names: Sequence[str] | None,
    ) -> Checkpoint:
        """Convert the tensors to a checkpoint of this library; see ``convert_tensors``."""
        tensors = {name: tensor for name, tensor in tensors.items() if not self.ignores(name)}
        is_512 = self.mark_512 is not None and any(name.startswith(self.mark_512) for name in tensors)
        size: ImageSize = 512 if is_512 else 300
        names = self.names(size)
        check_shapes(dict.fromkeys(names.values(), ()), dict.fromkeys(tensors, ()), where=where)  # names alone
        check_types({name: tensors[name] for name in names.values()}, where=where)
        # without memory, until the shapes are known to be right: a few bytes can stand for a tensor of any size
        without_memory = self._renamed({name: tensor.to("meta") for name, tensor in tensors.items()}, names, where)

        num_classes = num_classes_of(shapes_of(without_memory)) or 0
        if num_classes < 2:
            raise ValueError(f"{where}: the head has {num_classes} classes; 2 or more are needed, background included")
        boxes = self.default_boxes(size, num_classes) if default_boxes is None else default_box_spec(default_boxes)
        if boxes.image_size != size:
            raise ValueError(
                f"{where}: default boxes {default_boxes!r} are for {boxes.image_size} pixels; the file is an SSD{size}"
            )
        boxes = replace(boxes, clip=self.clip)
        arguments: dict[str, Any] = {
            "num_classes": num_classes,
            "backbone_norm": "none",
            "extras_norm": "none",
            "tap_norms": {"conv4_3": "l2_norm"},
            "dropout": self.dropout,
            "default_boxes": boxes,
            "width": 1.0,
        }
        with torch.device("meta"):
            model = (ssd300_vgg16 if size == 300 else ssd512_vgg16)(**arguments)
        statistics = {"image_mean": torch.tensor([v / 255 for v in self.mean]), "image_std": torch.full((3,), 1 / 255)}
        check_shapes(shapes_of(model.state_dict()), shapes_of(without_memory | statistics), where=where)
        state = self._renamed(tensors, names, where) | statistics

        labels = list(class_names) if class_names is not None else default_class_names(num_classes - 1)
        if len(labels) != num_classes - 1:
            raise ValueError(f"{where}: {len(labels)} class names for {num_classes - 1} classes (background has none)")
        limits = {"top_k": boxes.num_boxes, "max_detections": boxes.num_boxes * (num_classes - 1)}
        settings = {name: limits[name] if value is None else value for name, value in self.post_process.items()}
        return Checkpoint(
            model={"name": f"ssd{size}_vgg16", **arguments},
            state={name: tensor.contiguous() for name, tensor in state.items()},
            class_names=labels,
            post_process=settings,
            antialias=False,
        )

    def _renamed(self, tensors: Mapping[str, Tensor], names: Mapping[str, str], where: str) -> State:
        """Our tensors out of theirs, float32, in our layout."""
        try:
            return self.rearrange({ours: tensors[theirs].float() for ours, theirs in names.items()})
        except (RuntimeError, IndexError) as error:  # a part of the head with a shape that cannot be taken apart
            raise ValueError(f"{where}: the head's tensors do not fit {self.name}: {one_line(error)}") from error


def change_per_box(state: State, part: str, change: Callable[[Tensor], Tensor]) -> State:
    """Apply ``change`` to the outputs of a head part (locs or logits), reshaped to ``(boxes per cell, outputs, …)``."""
    changed = dict(state)
    for name, tensor in state.items():
        if name.startswith(f"head.{part}."):
            num_boxes = state[f"head.locs.{name.split('.')[2]}.bias"].shape[0] // 4
            changed[name] = change(tensor.unflatten(0, (num_boxes, -1))).flatten(0, 1)
    return changed
