"""Count operations and host syncs of the loss and the post-processing, which decide their cost on a GPU."""

from __future__ import annotations

import warnings
from functools import partial

import torch

from benchmarks.synthetic_outputs import backward, on_device, synthetic_output, synthetic_targets, untrained_output
from benchmarks.table import Table
from benchmarks.timing import Call, Row, Settings
from benchmarks.torchvision_ssd import TorchvisionSSD, nms_as_on_a_gpu, torchvision_targets
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.models.post_process import PostProcess
from tests.operation_count import OperationCount

_OBJECTS = {"20 objects": 20, "200 objects": 200, "untrained": None}
# goal → works whose largest count decides it
_GOALS = {
    "loss": ("loss, forward and backward",),
    "post_process": ("post-processing, 20 objects", "post-processing, untrained"),
    "crowded": ("post-processing, 200 objects",),
}


def measure(settings: Settings, *, num_classes: int = 81) -> Table:
    """Counts at several batch sizes; on a GPU also the syncs that CUDA reports."""
    table = Table(
        "operations",
        f"Operations other than views, and host syncs, as PyTorch dispatches them; SSD300, {num_classes} classes; "
        "for the loss at most 8 objects per image, beyond which each adds six operations. A sort, a topk or an NMS is "
        "one operation and several kernels on a GPU. torchvision's lists of targets are made "
        "before the count begins, and the NMS takes the branch that it takes on a GPU.",
    )
    default_boxes = make_default_boxes("ssd300_coco").to(settings.device)
    loss, post_process = MultiboxLoss(default_boxes), PostProcess(default_boxes)
    peer = TorchvisionSSD(default_boxes, num_classes)
    for num_images in (2, 8) if settings.quick else (2, 8, 32):
        boxes, labels = (x.to(settings.device) for x in synthetic_targets(num_images, num_classes))
        output = untrained_output(num_images, len(default_boxes), num_classes)
        leaves = on_device(output, settings.device, requires_grad=True)
        ours = partial(backward, loss, leaves, boxes, labels)
        theirs = partial(backward, peer.loss, leaves, torchvision_targets(boxes, labels))
        table.rows.append(_row("loss, forward and backward", num_images, ours, theirs, settings))
    for num_images in (2, 8):
        sizes = torch.full((num_images, 2), 300, device=settings.device)
        for kind, objects in _OBJECTS.items():
            output = on_device(synthetic_output(num_images, default_boxes.cpu(), num_classes, objects), settings.device)
            find, find_theirs = partial(post_process, output, sizes), partial(peer.post_process, output)
            with torch.no_grad():
                table.rows.append(_row(f"post-processing, {kind}", num_images, find, find_theirs, settings))
    for goal, works in _GOALS.items():
        rows = [row for row in table.rows if row["work"] in works]
        table.measured[f"operations.{goal}"] = max(row["operations"] for row in rows)
        table.measured[f"operations.{goal}_syncs"] = max(row["syncs"] for row in rows)
    return table


def _row(work: str, num_images: int, ours: Call, theirs: Call, settings: Settings) -> Row:
    with nms_as_on_a_gpu():
        with OperationCount() as mine:
            ours()
        with OperationCount() as others:
            theirs()
    return {
        "work": work,
        "batch": num_images,
        "operations": mine.operations,
        "syncs": mine.syncs,
        "torchvision_operations": others.operations,
        "torchvision_syncs": others.syncs,
        **({"device_syncs": _syncs_on_gpu(ours)} if settings.on_gpu else {}),
    }


def _syncs_on_gpu(call: Call) -> int:
    """Syncs that CUDA warned of."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)
