"""Convert a checkpoint back to torchvision's SSD300, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ssdnorm.boxes.default_boxes import DEFAULT_BOXES, DefaultBoxSpec, default_box_spec
from ssdnorm.models.checkpoint import Checkpoint
from ssdnorm.models.foreign.families import TORCHVISION, TORCHVISION_MEAN
from ssdnorm.norm_specs import norm_kind


def to_torchvision(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], list[str]]:
    """Convert to the state dict of torchvision's ``ssd300_vgg16``, and list the settings that it does not contain.

    torchvision keeps mean, default boxes and thresholds in its code. Where ours differ, the second value says what to
    pass to ``ssd300_vgg16`` or to set, one sentence each.

    Raises:
        ValueError: a network that torchvision does not have: SSD512, another width, other norms, default boxes that
            its generator cannot make.
    """
    model = checkpoint.model
    taps = {name: spec for name, spec in model["tap_norms"].items() if norm_kind(spec) != "none"}
    if model["name"] != "ssd300_vgg16" or model["width"] != 1.0:
        raise ValueError(f"torchvision has only ssd300_vgg16 of width 1; got {model['name']} of width {model['width']}")
    if norm_kind(model["backbone_norm"]) != "none" or norm_kind(model["extras_norm"]) != "none":
        raise ValueError("torchvision's ssd300_vgg16 has no norms in its backbone and extra layers; fold them first")
    if list(taps) != ["conv4_3"] or norm_kind(taps["conv4_3"]) != "l2_norm":
        raise ValueError(
            f"torchvision's ssd300_vgg16 has l2_norm on conv4_3 and no other tap norm; got {taps or 'none'}"
        )
    names = TORCHVISION.names(300)
    return {theirs: checkpoint.state[ours] for ours, theirs in names.items()}, _notes(checkpoint)


def _notes(checkpoint: Checkpoint) -> list[str]:
    notes = []
    mean, std = checkpoint.state["image_mean"].tolist(), checkpoint.state["image_std"].tolist()
    if any(abs(a - b) > 1e-6 for a, b in zip([*mean, *std], [*TORCHVISION_MEAN, *[1 / 255] * 3], strict=True)):
        notes.append(f"pass image_mean={_short(mean)}, image_std={_short(std)} to ssd300_vgg16")
    spec = default_box_spec(checkpoint.model["default_boxes"])
    if spec != replace(DEFAULT_BOXES["ssd300_coco"], clip="size"):
        notes.append(f"replace the anchor_generator: {_anchor_generator(spec)}")
    if dict(checkpoint.post_process) != dict(TORCHVISION.post_process):
        notes.append(f"set the thresholds: {dict(checkpoint.post_process)}")
    if checkpoint.antialias:
        notes.append("the weights were trained on images resized with antialiasing; torchvision resizes without")
    return notes


def _anchor_generator(spec: DefaultBoxSpec) -> str:
    """The call that makes these default boxes; its scales are shares of the image's side."""
    sizes, steps = [*spec.min_sizes, spec.max_sizes[-1]], list(spec.steps)
    if list(spec.max_sizes) != sizes[1:] or any(isinstance(step, tuple) for step in steps):
        got = f"steps {steps}, min_sizes {list(spec.min_sizes)}, max_sizes {list(spec.max_sizes)}"
        raise ValueError(
            "default_boxes: torchvision's DefaultBoxGenerator takes one step per tap and, as max_size, the next tap's "
            f"min_size; got {got}"
        )
    ratios, scales = [list(ratios) for ratios in spec.aspect_ratios], _short([size / 300 for size in sizes])
    lost = "; it does not limit the boxes' centres to the image, as was done in training" if spec.clip == "all" else ""
    return f"DefaultBoxGenerator({ratios}, scales={scales}, steps={steps}, clip={spec.clip != 'none'}){lost}"


def _short(values: Sequence[float]) -> list[float]:
    return [round(v, 6) for v in values]
