"""This file is about everything that is measured on a GPU, in one run that survives the failure of a part."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from benchmarks.gpu_goals import gpu_goal
from benchmarks.gpu_limits import measure_limits
from benchmarks.gpu_training import (
    NUM_CLASSES,
    PEER,
    Plan,
    count_on_device,
    measure_kernels,
    measure_real_batches,
    measure_steps,
)
from benchmarks.gpu_turns import measure_in_turns
from benchmarks.kernel_count import KernelCount
from benchmarks.made_up_outputs import draw_targets, trained_output
from benchmarks.table import Table, attempt
from benchmarks.torchvision_ssd import TorchvisionSSD, torchvision_detector, torchvision_targets
from ssdnorm.boxes.default_boxes import make_default_boxes
from ssdnorm.detector import Detector, compile_for_inference
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import ssd300_vgg16
from ssdnorm.structures import SSDOutput

Call = Callable[[], Any]
_PART_CLASSES = 81


def gpu_parts(plan: Plan) -> dict[str, Callable[[], Table]]:
    """What measures each table of a GPU, by name. A part that fails gives a table that says how.

    cuDNN chooses its algorithms by measuring them, as in training.
    """
    limits = cache(lambda: measure_limits(plan.device, size=plan.matrix, calls=2 * plan.steps))
    parts: dict[str, Callable[[], Table]] = {
        "gpu_limits": limits,
        "gpu_training": lambda: measure_steps(plan, limits()),
        "gpu_real_batches": lambda: measure_real_batches(plan),
        "gpu_inference": lambda: measure_inference(plan),
        "gpu_kernels": lambda: measure_kernels(plan),
        "gpu_parts": lambda: measure_parts(plan),
        "gpu_l2_norm": lambda: measure_l2_norm(plan),
    }

    def measure(name: str) -> Table:
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            return attempt(name, parts[name])
        finally:
            torch.backends.cudnn.benchmark = before

    return {name: partial(measure, name) for name in parts}


@torch.inference_mode()
def measure_inference(plan: Plan) -> Table:
    """Pictures of 300 × 300 to detections: latency at batch 1, images a second at larger ones."""
    table = Table(
        "gpu_inference",
        "Floats of 300 × 300 pixels on the device to detections on it, drawn weights. Medians of rounds in turns; "
        f"*times faster* is over {PEER}; compiled with the weights frozen, as `predict --compile`.",
    )

    def detecting(detector: Any, autocast: bool, pictures: list[torch.Tensor], compiled: bool = False) -> Call:
        def in_autocast(call: Callable[..., Any], *of: Any) -> Any:
            with torch.autocast(plan.device.type, torch.bfloat16, enabled=autocast):
                return call(*of)

        detector = detector.eval().to(plan.device)
        if compiled:
            in_autocast(compile_for_inference, detector.model, detector.prepare(pictures)[0])
        return partial(in_autocast, detector, pictures)

    def ours(*options: Any) -> Call:
        model = ssd300_vgg16(NUM_CLASSES, dropout=0, width=plan.width)
        return detecting(Detector(model, None, PostProcess(model.default_boxes), antialias=False), *options)

    def theirs(*options: Any) -> Call:
        return detecting(torchvision_detector(NUM_CLASSES), *options)

    for size in sorted({1, *plan.batch_sizes}):
        pictures = list(torch.rand(size, 3, 300, 300, device=plan.device))
        makes = {
            "torchvision, fp32": partial(theirs, False, pictures),
            PEER: partial(theirs, True, pictures),
            "ours, fp32": partial(ours, False, pictures),
            "ours, bf16 autocast": partial(ours, True, pictures),
        }
        if plan.compiled:
            makes["ours, bf16 autocast, compiled"] = partial(ours, True, pictures, True)
        rows = measure_in_turns(makes, plan.device, calls=plan.steps, rounds=plan.rounds, peer=PEER)
        for name, row in rows.items():
            if "ms" in row:
                row["images_a_second"] = 1e3 * size / row["ms"]
            table.rows.append({"candidate": name, "batch": size, **row})
    return table


def measure_parts(plan: Plan) -> Table:
    """The loss and the post-processing alone: time, kernels by both ways of counting, waits."""
    table = Table(
        "gpu_parts",
        f"Loss (forward and backward) and post-processing (20 objects an image), {_PART_CLASSES} classes. *Operations* "
        "are those that PyTorch dispatches, views left out, as the goals were counted on a CPU; *launches* are the "
        "kernels that the profiler saw: a sort or a suppression launches several. *Waits* are CUDA's warnings.",
    )
    default_boxes = make_default_boxes("ssd300_coco").to(plan.device)
    loss, post_process = MultiboxLoss(default_boxes), PostProcess(default_boxes)
    peer = TorchvisionSSD(default_boxes, _PART_CLASSES)
    for size in plan.batch_sizes:
        found = trained_output(size, default_boxes.cpu(), _PART_CLASSES, 20)
        output = SSDOutput(*(x.to(plan.device) for x in found))
        leaves = SSDOutput(*(x.clone().requires_grad_() for x in output))
        boxes, labels = (x.to(plan.device) for x in draw_targets(size, _PART_CLASSES))
        targets = torchvision_targets(boxes, labels)
        sizes = torch.full((size, 2), 300, device=plan.device)

        def both(call: Callable[..., dict[str, torch.Tensor]], leaves: SSDOutput, *of: Any) -> None:
            leaves.locs.grad = leaves.logits.grad = None
            torch.stack(list(call(leaves, *of).values())).sum().backward()

        work: dict[str, dict[str, Call]] = {
            "loss": {
                "torchvision": partial(both, peer.loss, leaves, targets),
                "ours": partial(both, loss, leaves, boxes, labels),
            },
            "post-processing": {
                "torchvision": partial(peer.post_process, output),
                "ours": partial(post_process, output, sizes),
            },
        }
        for part, calls in work.items():
            makes = {name: partial(_as_it_is, call) for name, call in calls.items()}
            rows = measure_in_turns(makes, plan.device, calls=plan.steps, rounds=plan.rounds, peer="torchvision")
            for name, row in rows.items():
                if "ms" in row:
                    with KernelCount() as count:
                        calls[name]()
                    row |= {"operations": count.kernels, **count_on_device(calls[name], plan.device)}
                table.rows.append({"part": part, "candidate": name, "batch": size, **row})
    for part in work:
        rows_of_part = [row for row in table.rows if (row["part"], row["candidate"]) == (part, "ours")]
        for what in ("operations", "waits"):
            most = max((row[what] for row in rows_of_part if what in row), default=None)
            table.goals.append(gpu_goal(f"{part} {what}", most))
    return table


@torch.no_grad()
def measure_l2_norm(plan: Plan) -> Table:
    """The layer's forward pass beside a copy, channels-last, bf16 and float32."""
    table = Table("gpu_l2_norm", "L2Norm's forward pass on (32, 512, 38, 38), channels-last, in turns with a copy.")
    layer = L2Norm(512).to(plan.device)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(32, 512, 38, 38, device=plan.device, dtype=dtype).to(memory_format=torch.channels_last)
        calls: dict[str, Call] = {"copy": partial(torch.empty_like(x).copy_, x), "eager": partial(layer, x)}
        if plan.compiled:
            calls["compiled"] = partial(torch.compile(layer), x)
        makes = {name: partial(_as_it_is, call) for name, call in calls.items()}
        rows = measure_in_turns(makes, plan.device, calls=2 * plan.steps, rounds=plan.rounds, peer="copy")
        for name, row in rows.items():
            if "ms" in row:
                row["of_copy"] = row.pop("times_faster")
                row["gb_a_second"] = 2 * x.numel() * x.element_size() / row["ms"] / 1e6
            table.rows.append({"way": name, "dtype": str(dtype)[6:], **row})
    shares = [row["of_copy"] for row in table.rows if row["way"] == "compiled" and "of_copy" in row]
    table.goals.append(gpu_goal("l2_norm", min(shares, default=None)))
    return table


def _as_it_is(call: Call) -> Call:
    return call
