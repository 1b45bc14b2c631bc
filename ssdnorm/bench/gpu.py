"""This file is about everything that is measured on a GPU, in one run that survives the failure of a part."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ssdnorm.bench.gpu_limits import limit, measure_limits, seconds_a_call
from ssdnorm.bench.gpu_training import (
    NUM_CLASSES,
    Plan,
    count_on_device,
    measure_kernels,
    measure_real_batches,
    measure_steps,
)
from ssdnorm.bench.made_up_outputs import draw_targets, trained_output
from ssdnorm.bench.table import Goal, Table, attempt
from ssdnorm.bench.torchvision_ssd import torchvision_detector
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.models.detector import Detector
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import ssd300_vgg16
from ssdnorm.structures import SSDOutput


def gpu_parts(plan: Plan) -> list[Callable[[], Table]]:
    """What measures each table of a GPU, to be called in order. A part that fails gives a table that says how."""
    done: dict[str, Table] = {}
    parts: dict[str, Callable[[], Table]] = {
        "gpu_limits": lambda: measure_limits(plan.device, size=plan.matrix, calls=plan.steps),
        "gpu_training": lambda: measure_steps(plan, done["gpu_limits"]),
        "gpu_real_batches": lambda: measure_real_batches(plan, done["gpu_training"]),
        "gpu_inference": lambda: measure_inference(plan),
        "gpu_kernels": lambda: measure_kernels(plan),
        "gpu_parts": lambda: measure_parts(plan),
        "gpu_l2_norm": lambda: measure_l2_norm(plan, done["gpu_limits"]),
    }

    def measure(name: str) -> Table:
        done[name] = attempt(name, parts[name])
        return done[name]

    return [partial(measure, name) for name in parts]


@torch.inference_mode()
def measure_inference(plan: Plan) -> Table:
    """Pictures of 300 × 300 to detections: latency at batch 1, images a second at larger ones."""
    table = Table("gpu_inference", "Floats of 300 × 300 pixels on the device to detections on it, drawn weights.")
    model = ssd300_vgg16(NUM_CLASSES, dropout=0, width=plan.width)
    ours = Detector(model, None, PostProcess(model.default_boxes)).eval().to(plan.device)
    peer = torchvision_detector(NUM_CLASSES).eval().to(plan.device)
    for name, detector, autocast in (
        ("torchvision, fp32", peer, False),
        ("torchvision, bf16 autocast", peer, True),
        ("ours, fp32", ours, False),
        ("ours, bf16 autocast", ours, True),
    ):
        for size in sorted({1, *plan.batch_sizes}):
            pictures = list(torch.rand(size, 3, 300, 300, device=plan.device))
            with torch.autocast(plan.device.type, torch.bfloat16, enabled=autocast):
                seconds = seconds_a_call(partial(detector, pictures), plan.device, calls=plan.steps)
            row = {"candidate": name, "batch": size, "ms": 1e3 * seconds, "images_a_second": size / seconds}
            table.rows.append(row)
    return table


def measure_parts(plan: Plan) -> Table:
    """The loss and the post-processing alone: time, kernels, waits."""
    table = Table("gpu_parts", "Loss (forward and backward) and post-processing (20 objects an image), 81 classes.")
    default_boxes = make_default_boxes("ssd300_coco")
    loss = MultiboxLoss(default_boxes).to(plan.device)
    post_process = PostProcess(default_boxes).to(plan.device)
    for size in plan.batch_sizes:
        found = trained_output(size, default_boxes, 81, 20)
        output = SSDOutput(*(x.to(plan.device).requires_grad_() for x in found))
        boxes, labels = (x.to(plan.device) for x in draw_targets(size, 81))
        sizes = torch.full((size, 2), 300, device=plan.device)

        def step(output: SSDOutput, *targets: torch.Tensor) -> None:
            torch.stack(list(loss(output, *targets).values())).sum().backward()

        calls = {"loss": partial(step, output, boxes, labels), "post-processing": partial(post_process, output, sizes)}
        for name, call in calls.items():
            seconds = seconds_a_call(call, plan.device, calls=plan.steps)
            kernels, waits = count_on_device(call, plan.device)
            row = {"part": name, "batch": size, "ms": 1e3 * seconds, "kernels": kernels, "waits": waits}
            table.rows.append(row)
    for name, kernels, waits in (("loss", 120, 0), ("post-processing", 60, 4)):
        for what, goal in (("kernels", kernels), ("waits", waits)):
            most = max(row[what] for row in table.rows if row["part"] == name)
            measured = most if plan.device.type == "cuda" else None
            table.goals.append(Goal(f"{name}: {what} at any batch size", goal, measured, unit="", at_most=True))
    return table


@torch.no_grad()
def measure_l2_norm(plan: Plan, limits: Table) -> Table:
    """The layer's forward pass beside a copy, channels-last, bf16 and float32."""
    table = Table("gpu_l2_norm", "L2Norm's forward pass on (32, 512, 38, 38), channels-last, against the copy rate.")
    layer = L2Norm(512).to(plan.device)
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"eager": layer}
    if plan.compiled:
        ways["compiled"] = torch.compile(layer)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(32, 512, 38, 38, device=plan.device, dtype=dtype).to(memory_format=torch.channels_last)
        for name, way in ways.items():
            seconds = seconds_a_call(partial(way, x), plan.device, calls=plan.steps)
            rate = 2 * x.numel() * x.element_size() / seconds / 1e9
            share = rate / limit(limits, "copy")
            table.rows.append({"way": name, "dtype": str(dtype)[6:], "gb_a_second": rate, "of_copy": share})
    compiled = [row["of_copy"] for row in table.rows if row["way"] == "compiled"]
    table.goals.append(Goal("L2Norm compiled, of the copy rate", 0.8, min(compiled, default=None), unit=""))
    return table
