"""This file is about what the multibox loss costs beside torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.made_up_outputs import draw_targets, untrained_output
from benchmarks.operators import peak_megabytes, top_operators
from benchmarks.table import Goal, Settings, Table, interleaved
from benchmarks.torchvision_ssd import TorchvisionSSD, torchvision_targets
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.boxes.matcher import default_box_iou
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.structures import SSDOutput

_CASES = ((8, 21, 2.5), (32, 81, 3.0))  # images, classes, goal
_MANY_OBJECTS = 200
Parts = dict[str, Tensor]  # of a loss


def measure(settings: Settings) -> Table:
    """Matching, loss and gradients of both outputs."""
    table = Table(
        "loss",
        "Matching, loss, and its gradients with respect to locs and logits, forward and backward, ms a batch; SSD300, "
        "one to eight objects an image. The differences are the largest between the parts of the two losses, over all "
        "objects and without the contested ones: where two objects of an image ask for one default box, torchvision "
        "lets one of them go, and we give it its next best; of equally good boxes either takes another.",
    )
    for num_images, num_classes, goal in _CASES:
        _measure_case(table, num_images, num_classes, goal, settings)
    most = max(row["difference_uncontested"] for row in table.rows)
    table.goals.append(Goal("loss, difference to torchvision without contested objects", 1e-5, most, "", at_most=True))
    _measure_memory(table, 8 if settings.quick else 32)
    return table


def _measure_case(table: Table, num_images: int, num_classes: int, goal: float, settings: Settings) -> None:
    default_boxes = make_default_boxes("ssd300_coco").to(settings.device)
    boxes, labels = (x.to(settings.device) for x in draw_targets(num_images, num_classes))
    output = untrained_output(num_images, len(default_boxes), num_classes)
    leaves = SSDOutput(*(x.to(settings.device).requires_grad_() for x in output))
    peer, ours = TorchvisionSSD(default_boxes, num_classes), MultiboxLoss(default_boxes).to(settings.device)

    def both(labels: Tensor) -> dict[str, Callable[[], Parts]]:
        targets = torchvision_targets(boxes, labels)
        return {
            "torchvision": partial(_forward_backward, lambda: peer.loss(leaves, targets), leaves),
            "ours": partial(_forward_backward, lambda: ours(leaves, boxes, labels), leaves),
        }

    calls = both(labels)
    repeats = (8 if num_images < 16 else 3) if settings.quick else (30 if num_images < 16 else 10)
    times = interleaved(calls, repeats=repeats, warm_up=2, synchronize=settings.synchronize, clock=settings.clock)
    speed = times.ratio("torchvision", "ours")
    table.rows.append(
        {
            "batch": num_images,
            "classes": num_classes,
            "torchvision_ms": times.ms("torchvision"),
            "ours_ms": times.ms("ours"),
            "times_faster": speed,
            "difference": _difference(calls),
            "difference_uncontested": _difference(both(without_contested(boxes, labels, default_boxes))),
        }
    )
    what = f"loss, forward and backward, batch {num_images}, {num_classes} classes, over torchvision"
    table.goals.append(Goal(what, goal, speed))
    if not table.goals[-1].met:
        table.notes.append(f"Why batch {num_images} misses its goal, top operators: {top_operators(calls['ours'])}.")


def without_contested(boxes: Tensor, labels: Tensor, default_boxes: Tensor) -> Tensor:
    """The labels, 0 where an earlier object has the same best default box, or two are an object's best up to rounding.

    Args:
        boxes: ``(B, G, 4)`` xyxy in [0, 1].
        labels: ``(B, G)``.
        default_boxes: ``(K, 4)`` cxcywh in [0, 1].
    """
    iou = default_box_iou(boxes, default_boxes)
    (best, second), place = iou.topk(2, dim=2).values.unbind(dim=2), iou.argmax(dim=2)
    contested = (place[:, :, None] == place[:, None]).tril(-1).any(dim=2)
    return labels.masked_fill(contested | (best - second < 1e-5), 0)


def _forward_backward(loss: Callable[[], Parts], leaves: SSDOutput) -> Parts:
    leaves.locs.grad = leaves.logits.grad = None
    parts = loss()
    torch.stack(list(parts.values())).sum().backward()
    return parts


def _difference(calls: dict[str, Callable[[], Parts]]) -> float:
    theirs, ours = calls["torchvision"](), calls["ours"]()
    return max((ours[key] - value).abs().item() for key, value in theirs.items())


def _measure_memory(table: Table, num_images: int) -> None:
    """What the loss allocates at its peak, with one object an image and with many."""
    default_boxes = make_default_boxes("ssd300_coco")
    loss = MultiboxLoss(default_boxes)
    leaves = SSDOutput(*(x.requires_grad_() for x in untrained_output(num_images, len(default_boxes), 21)))
    peaks = []
    for number in (1, _MANY_OBJECTS):
        boxes, labels = draw_targets(num_images, 21, number)
        peaks.append(peak_megabytes(partial(_forward_backward, partial(loss, leaves, boxes, labels.fill_(1)), leaves)))
    table.notes.append(
        f"Peak of what PyTorch allocates, forward and backward, batch {num_images}, 21 classes: "
        f"{peaks[0]:.0f} MB with one object an image, {peaks[1]:.0f} MB with {_MANY_OBJECTS}."
    )
    blow_up = 4 * 4 * num_images * len(default_boxes) * _MANY_OBJECTS / 1e6
    what = f"loss, memory that {_MANY_OBJECTS} objects an image add, batch {num_images}"
    table.goals.append(
        Goal(what, round(blow_up), peaks[1] - peaks[0], "MB", True, "the goal is what (B, K, G, 4) floats take")
    )
