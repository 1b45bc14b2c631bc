"""Time the multibox loss beside torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.synthetic_outputs import backward, on_device, synthetic_targets, untrained_output
from benchmarks.table import Table
from benchmarks.timing import Settings, compare, ready
from benchmarks.torchvision_ssd import TorchvisionSSD, torchvision_targets
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.losses.multibox_loss import MultiboxLoss


def measure(settings: Settings, *, cases: Sequence[tuple[int, int]] | None = None) -> Table:
    """Matching, loss and the gradients of both outputs.

    Args:
        cases: images per batch and classes, per row.
    """
    cases = cases or ([(8, 81), (64, 81)] if settings.on_gpu else [(8, 21)] if settings.quick else [(8, 21), (32, 81)])
    table = Table(
        "loss",
        "Matching, loss, and its gradients with respect to locs and logits, ms per batch; SSD300, one to eight objects "
        "per image. torchvision's lists of targets are made beforehand.",
    )
    default_boxes = make_default_boxes("ssd300_coco").to(settings.device)
    ours = MultiboxLoss(default_boxes).to(settings.device)
    for num_images, num_classes in cases:
        boxes, labels = (x.to(settings.device) for x in synthetic_targets(num_images, num_classes))
        output = untrained_output(num_images, len(default_boxes), num_classes)
        leaves = on_device(output, settings.device, requires_grad=True)
        peer = TorchvisionSSD(default_boxes, num_classes)
        calls = {
            "torchvision": partial(backward, peer.loss, leaves, torchvision_targets(boxes, labels)),
            "ours": partial(backward, ours, leaves, boxes, labels),
        }
        rounds = 3 if settings.quick else 10 if num_images > 8 else 30
        rows = compare(ready(calls), settings, peer="torchvision", rounds=rounds)
        ms = {f"{name}_ms": row["ms"] for name, row in rows.items()}
        table.rows.append({"batch": num_images, "classes": num_classes, **ms, "speedup": rows["ours"]["speedup"]})
    table.measured["loss.speed"] = min(row["speedup"] for row in table.rows)
    return table
