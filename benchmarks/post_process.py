"""Time the post-processing beside torchvision's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.synthetic_outputs import on_device, synthetic_output
from benchmarks.table import Table
from benchmarks.timing import Settings, compare, ready
from benchmarks.torchvision_ssd import TorchvisionSSD
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.models.post_process import PostProcess

# classes, objects per image (None: an untrained network)
CASES = ((21, 20), (91, 20), (21, 200), (91, 200), (21, None), (91, None))


@torch.inference_mode()
def measure(settings: Settings, *, cases: Sequence[tuple[int, int | None]] = CASES) -> Table:
    """Raw output to detections."""
    default_boxes = make_default_boxes("ssd300_coco").to(settings.device)
    num_images = 1 if settings.quick else 64 if settings.on_gpu else 4
    ours = PostProcess(default_boxes).to(settings.device)
    sizes = torch.full((num_images, 2), 300, device=settings.device)
    table = Table(
        "post_process",
        f"From locs and logits to detections, ms per image at batch {num_images}; SSD300, on synthetic outputs of a "
        "network trained on 20 or 200 objects per image, and of an untrained one. Score threshold 0.01, NMS 0.45, 400 "
        "per class, 200 per image, as torchvision's.",
    )
    for num_classes, num_objects in cases:
        output = synthetic_output(num_images, default_boxes.cpu(), num_classes, num_objects)
        output = on_device(output, settings.device)
        peer = TorchvisionSSD(default_boxes, num_classes)
        calls = {"torchvision": partial(peer.post_process, output), "ours": partial(ours, output, sizes)}
        rows = compare(ready(calls), settings, peer="torchvision", rounds=2 if settings.quick else 8)
        table.rows.append(
            {
                "classes": num_classes,
                "output": "untrained" if num_objects is None else f"{num_objects} objects",
                **{f"{name}_ms": row["ms"] / num_images for name, row in rows.items()},
                "speedup": rows["ours"]["speedup"],
            }
        )
    table.measured["post_process.speed"] = min(row["speedup"] for row in table.rows)
    return table
