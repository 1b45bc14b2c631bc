"""Time a training step beside torchvision's SSD300, by width, batch size and precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.synthetic_outputs import synthetic_images, synthetic_targets
from benchmarks.table import Table
from benchmarks.timing import Call, Row, Settings, compare, seconds_per_call
from benchmarks.torchvision_ssd import torchvision_detector, torchvision_targets
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.models.ssd import SSD, ssd300_vgg16

NUM_CLASSES = 21
GOAL_BATCH = 64  # at which goals for a GPU are read
# images, boxes, labels → a call that makes one step on them; moving them to the device is not part of it
Step = Callable[[Tensor, Tensor, Tensor], Call]


@dataclass(frozen=True)
class Case:
    """A network and a batch size.

    Args:
        batch: images per step.
        width: factor on the channels of VGG16.
        norm: after every convolution.
        rounds, steps: rounds that count, and steps of a candidate per round.
    """

    batch: int
    width: float = 1.0
    norm: str = "none"
    rounds: int = 3
    steps: int = 1


def default_cases(settings: Settings) -> list[Case]:
    """Batch sizes at full width on a GPU; full width, and an eighth of it with batch norm, on a CPU."""
    if settings.on_gpu:
        sizes = (8, GOAL_BATCH) if settings.quick else (8, 16, 32, GOAL_BATCH, 128)
        return [Case(size, rounds=5, steps=10) for size in sizes]
    if settings.quick:
        return [Case(1, rounds=1), Case(2, 1 / 8, "batch_norm", rounds=1)]
    return [Case(4), Case(8, 1 / 8, "batch_norm", rounds=5)]


def measure(settings: Settings, *, cases: Sequence[Case] | None = None) -> Table:
    """Forward, matching, loss, backward and SGD on one synthetic batch that is on the device already."""
    table = Table(
        "training_step",
        "Forward, matching and loss, backward, SGD with momentum; SSD300-VGG16, 21 classes, no dropout, one synthetic "
        "batch of 300 × 300 pixels. torchvision's detector has its own transform and loss, and takes floats and lists "
        "of targets made beforehand (for a narrow network it stands around the same layers as ours); ours starts "
        "from uint8, channels-last. *Of convolution* is the share of the rate of one 3 × 3 convolution in the same "
        "precision, forward and backward being three times the forward pass.",
    )
    rates = {name: convolution_rate(settings, dtype) for name, dtype in _dtypes(settings).items()}
    peer = "torchvision, bf16" if settings.on_gpu else "torchvision, fp32"
    for case in cases or default_cases(settings):
        makes = {name: partial(_on_synthetic_batch, make, case) for name, make in candidates(settings, case).items()}
        rows = compare(makes, settings, peer=peer, rounds=case.rounds, calls=case.steps)
        flops = 3 * forward_flops(case)
        for name, row in rows.items():
            if "ms" in row:
                row["images_per_second"] = 1e3 * case.batch / row["ms"]
                row["of_convolution"] = flops * row["images_per_second"] / rates[name.split(", ")[1]]
            table.rows.append(
                {"candidate": name, "width": f"{case.width:g}", "norm": case.norm, "batch": case.batch} | row
            )
    table.measured = _measured(table.rows, settings)
    return table


def candidates(settings: Settings, case: Case) -> dict[str, Callable[[], Step]]:
    """What makes a training step, by name."""

    def theirs(autocast: torch.dtype | None) -> Step:
        features = None if case.width == 1 and case.norm == "none" else _network(case).features
        return torchvision_step(torchvision_detector(NUM_CLASSES, features).to(settings.device), autocast=autocast)

    def ours(autocast: torch.dtype | None, compiled: bool = False) -> Step:
        return our_step(_network(case).to(settings.device), autocast=autocast, compiled=compiled)

    found: dict[str, Callable[[], Step]] = {}
    for name, dtype in _dtypes(settings).items():
        autocast = None if dtype == torch.float32 else dtype
        found |= {f"torchvision, {name}": partial(theirs, autocast), f"ours, {name}": partial(ours, autocast)}
    if settings.compiled:
        found[f"ours, {name}, compiled"] = partial(ours, autocast, compiled=True)
    return found


def our_step(model: SSD, *, autocast: torch.dtype | None = None, compiled: bool = False) -> Step:
    """A training step of an SSD of ours, as the training command makes it."""
    device = model.default_boxes.device
    model.train().to(memory_format=torch.channels_last)
    loss = MultiboxLoss(model.default_boxes).to(device)
    optimizer = _optimizer(model, device)
    network = torch.compile(model) if compiled else model

    def prepare(*batch: Tensor) -> Call:
        images, boxes, labels = (x.to(device, non_blocking=True) for x in batch)

        def losses() -> dict[str, Tensor]:
            output = network(images.contiguous(memory_format=torch.channels_last))
            return loss(output, boxes, labels)

        return partial(_step, losses, optimizer, device, autocast)

    return prepare


def torchvision_step(detector: nn.Module, *, autocast: torch.dtype | None = None) -> Step:
    """A training step of torchvision's detector, which takes lists of floats and of targets."""
    device = next(detector.parameters()).device
    detector.train()
    optimizer = _optimizer(detector, device)

    def prepare(images: Tensor, boxes: Tensor, labels: Tensor) -> Call:
        pictures = list(images.to(device, non_blocking=True).float() / 255)
        targets = [
            {key: x.to(device, non_blocking=True) for key, x in target.items()}
            for target in torchvision_targets(boxes, labels)
        ]
        return partial(_step, lambda: detector(pictures, targets), optimizer, device, autocast)

    return prepare


def convolution_rate(settings: Settings, dtype: torch.dtype) -> float:
    """Floating-point operations per second of one 3 × 3 convolution, forward."""
    num_images, channels, side = (64, 256, 75) if settings.on_gpu else (1, 64 if settings.quick else 256, 75)
    maps = torch.randn(num_images, channels, side, side, device=settings.device, dtype=dtype)
    kernel = torch.randn(channels, channels, 3, 3, device=settings.device, dtype=dtype)
    maps, kernel = (x.contiguous(memory_format=torch.channels_last) for x in (maps, kernel))
    call = partial(F.conv2d, maps, kernel, padding=1)
    seconds = seconds_per_call(call, settings, calls=20 if settings.on_gpu else 4, clock=settings.clock)
    return 2 * num_images * side**2 * channels**2 * 9 / seconds


def forward_flops(case: Case) -> int:
    """Floating-point operations of the network per image, forward; 62.75 GFLOP at full width."""
    with torch.device("meta"):
        network, images = _network(case).eval(), torch.zeros(1, 3, 300, 300)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops()


def _dtypes(settings: Settings) -> dict[str, torch.dtype]:
    return {"fp32": torch.float32, **({"bf16": torch.bfloat16} if settings.bf16 else {})}


def _network(case: Case) -> SSD:
    return ssd300_vgg16(NUM_CLASSES, dropout=0, width=case.width, backbone_norm=case.norm, extras_norm=case.norm)


def _on_synthetic_batch(make: Callable[[], Step], case: Case) -> Call:
    return make()(synthetic_images(case.batch), *synthetic_targets(case.batch, NUM_CLASSES))


def _step(
    losses: Callable[[], dict[str, Tensor]], optimizer: SGD, device: torch.device, autocast: torch.dtype | None
) -> Tensor:
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        total = torch.stack(list(losses().values())).sum()
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    return total.detach()


def _optimizer(model: nn.Module, device: torch.device) -> SGD:
    return SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4, fused=device.type == "cuda")


def _measured(rows: list[Row], settings: Settings) -> dict[str, float | None]:
    """Numbers of the goals: on a GPU the best of ours at batch 64, on a CPU ours at full width by precision."""
    ours = [row for row in rows if row["candidate"].startswith("ours") and row["width"] == "1" and "ms" in row]
    if settings.on_gpu:
        at_goal = [row for row in ours if row["batch"] == GOAL_BATCH]
        best = max(at_goal, key=lambda row: row["images_per_second"], default={})
        columns = {"gpu_rate": "images_per_second", "gpu_speed": "speedup", "gpu_share": "of_convolution"}
        return {f"training_step.{goal}": best.get(column) for goal, column in columns.items()}
    by_name = {row["candidate"]: row["speedup"] for row in ours}
    return {f"training_step.{name}": by_name.get(f"ours, {name}") for name in ("fp32", "bf16")}
