"""This file is about torchvision's SSD300: its checkpoints to ours, and ours back to it, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ssdnorm.boxes.default_boxes import DEFAULT_BOXES, default_box_spec
from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.foreign.family import (
    VGG_PLACES,
    Family,
    Meaning,
    layer_names,
    make_checkpoint,
    rename,
)

_MEAN = (0.48235, 0.45882, 0.40784)
_MEANING = Meaning(
    mean=tuple(255 * v for v in _MEAN),  # type: ignore[arg-type]
    clip="size",
    post_process={"score_threshold": 0.01, "nms_threshold": 0.45, "top_k": 400, "max_detections": 200},
)
_SCALE = "backbone.scale_weight"


def _layers() -> dict[str, str]:
    # features ends behind conv4_3; extra.0 goes on with pool4 at 0, conv5_1 at 1 … and has fc6 and fc7 in its place 7
    backbone = {name: f"backbone.features.{place}" for name, place in VGG_PLACES.items() if place <= 21}
    backbone |= {"conv5_1": "backbone.extra.0.1", "conv5_2": "backbone.extra.0.3", "conv5_3": "backbone.extra.0.5"}
    backbone |= {"fc6": "backbone.extra.0.7.1", "fc7": "backbone.extra.0.7.3"}
    return layer_names(
        300,
        backbone=backbone,
        extra=[f"backbone.extra.{i}.{j}" for i in range(1, 5) for j in (0, 2)],
        locs=[f"head.regression_head.module_list.{i}" for i in range(6)],
        logits=[f"head.classification_head.module_list.{i}" for i in range(6)],
    )


def _convert(
    tensors: Mapping[str, Tensor], *, where: str, default_boxes: str | None, class_names: Sequence[str] | None
) -> Checkpoint:
    state = rename(tensors, _layers(), _SCALE, where=where)
    return make_checkpoint(
        state, 300, _MEANING, where=where, boxes=default_boxes or "ssd300_coco", class_names=class_names
    )


def to_torchvision(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict of torchvision's ``ssd300_vgg16``, and what has to be told to torchvision beside it.

    Torchvision keeps mean, default boxes and thresholds in its code: where ours differ, the second value says what to
    pass to ``ssd300_vgg16`` or to set, one sentence each.

    Raises:
        ValueError: for a network that torchvision's cannot be: SSD512, another width, other norms.
    """
    model = checkpoint.model
    taps = {name: spec for name, spec in model["tap_norms"].items() if _kind(spec) != "none"}
    if model["name"] != "ssd300_vgg16" or model["width"] != 1.0:
        raise ValueError(
            f"torchvision has ssd300_vgg16 of width 1 alone; got {model['name']} of width {model['width']}"
        )
    if _kind(model["backbone_norm"]) != "none" or _kind(model["extras_norm"]) != "none":
        raise ValueError("torchvision's ssd300_vgg16 has no norms in its backbone and extra layers; fold them first")
    if list(taps) != ["conv4_3"] or _kind(taps["conv4_3"]) != "l2_norm":
        raise ValueError(
            f"torchvision's ssd300_vgg16 has l2_norm on conv4_3 and no other tap norm; got {taps or 'none'}"
        )
    names = {f"{ours}.{word}": f"{theirs}.{word}" for ours, theirs in _layers().items() for word in ("weight", "bias")}
    names["features.tap_norms.conv4_3.weight"] = _SCALE
    return {theirs: checkpoint.state[ours] for ours, theirs in names.items()}, _notes(checkpoint)


def _notes(checkpoint: Checkpoint) -> list[str]:
    notes = []
    mean, std = checkpoint.state["image_mean"].tolist(), checkpoint.state["image_std"].tolist()
    if any(abs(a - b) > 1e-6 for a, b in zip([*mean, *std], [*_MEAN, *[1 / 255] * 3], strict=True)):
        notes.append(f"pass image_mean={_short(mean)}, image_std={_short(std)} to ssd300_vgg16")
    spec, theirs = default_box_spec(checkpoint.model["default_boxes"]), DEFAULT_BOXES["ssd300_coco"]
    if spec.min_sizes != theirs.min_sizes or spec.max_sizes != theirs.max_sizes or spec.clip != "size":
        sizes = [round(v / spec.image_size, 6) for v in (*spec.min_sizes, spec.max_sizes[-1])]
        clip = spec.clip != "none"
        notes.append(f"replace the anchor_generator: DefaultBoxGenerator(…, scales={sizes}, clip={clip})")
    if dict(checkpoint.post_process) != dict(_MEANING.post_process):
        notes.append(f"set the thresholds: {dict(checkpoint.post_process)}")
    if checkpoint.antialias:
        notes.append("the weights were trained on images resized with antialiasing; torchvision resizes without")
    return notes


def _kind(spec: str | Mapping[str, object]) -> object:
    return spec if isinstance(spec, str) else spec["kind"]


def _short(values: Sequence[float]) -> list[float]:
    return [round(v, 6) for v in values]


FAMILY = Family("torchvision", lambda tensors: _SCALE in tensors, _convert)
