"""This file is about what post-processing costs beside torchvision's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmarks.made_up_outputs import trained_output, untrained_output
from benchmarks.operators import top_operators
from benchmarks.table import Goal, Settings, Table, interleaved
from benchmarks.torchvision_ssd import TorchvisionSSD
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.models.post_process import PostProcess
from ssdnorm.structures import SSDOutput

# classes, objects an image (None: an untrained network), goal; 1 is "never slower"
_CASES = ((21, 20, 2.5), (91, 20, 6.0), (21, 200, 1.0), (91, 200, 1.0), (21, None, 1.0), (91, None, 1.0))


@torch.inference_mode()
def measure(settings: Settings) -> Table:
    """Raw output → detections."""
    default_boxes = make_default_boxes("ssd300_coco").to(settings.device)
    num_images = 1 if settings.quick else 4
    ours = PostProcess(default_boxes).to(settings.device)
    sizes = torch.full((num_images, 2), 300, device=settings.device)
    table = Table(
        "post_process",
        f"From locs and logits to detections, ms an image at batch {num_images}; SSD300, on outputs like those of a "
        "network trained on 20 or 200 objects an image, and of an untrained one. Score threshold 0.01, NMS 0.45, 400 a "
        "class, 200 an image, as torchvision's. Same: as many detections, with the same labels, "
        "scores to 1e-5 and boxes to 0.001 pixel, whatever the order of equal scores.",
    )
    for num_classes, num_objects, goal in _CASES:
        if num_objects is None:
            output = untrained_output(num_images, len(default_boxes), num_classes, spread=0.1)
        else:
            output = trained_output(num_images, default_boxes.cpu(), num_classes, num_objects)
        output = SSDOutput(*(x.to(settings.device) for x in output))
        peer = TorchvisionSSD(default_boxes, num_classes)
        calls = {"torchvision": lambda: peer.post_process(output), "ours": lambda: ours(output, sizes)}  # noqa: B023
        same = all(map(same_detections, calls["torchvision"](), calls["ours"]()))
        times = interleaved(
            calls, repeats=2 if settings.quick else 8, synchronize=settings.synchronize, clock=settings.clock
        )
        speed = times.ratio("torchvision", "ours")
        objects = "untrained" if num_objects is None else f"{num_objects} objects"
        table.rows.append(
            {
                "classes": num_classes,
                "output": objects,
                "torchvision_ms": times.ms("torchvision") / num_images,
                "ours_ms": times.ms("ours") / num_images,
                "times_faster": speed,
                "same": "yes" if same else "NO",
            }
        )
        table.goals.append(Goal(f"post-processing, {num_classes} classes, {objects}, over torchvision", goal, speed))
        if not table.goals[-1].met:
            table.notes.append(f"Why {objects}, {num_classes} classes miss the goal: {top_operators(calls['ours'])}.")
    others = sum(row["same"] != "yes" for row in table.rows)
    table.goals.append(Goal("post-processing, cases with other detections than torchvision's", 0, others, "", True))
    return table


def same_detections(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> bool:
    """Whether each detection of one is one of the other too: label, score to 1e-5, box to a thousandth of a pixel."""
    columns = [torch.column_stack((x["labels"], x["scores"], x["boxes"])).double() for x in (theirs, ours)]
    if len(columns[0]) != len(columns[1]):
        return False
    tolerance = columns[0].new_tensor([0, 1e-5, *[1e-3] * 4])
    pairs = ((columns[0][:, None] - columns[1]).abs() <= tolerance).all(dim=2)
    return bool(pairs.any(dim=0).all() and pairs.any(dim=1).all())
