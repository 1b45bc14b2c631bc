"""This file is about what L2Norm costs beside the two formulas in use and a copy of the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.operators import top_operators
from benchmarks.table import Goal, Settings, Table, interleaved
from ssdnorm.layers import L2Norm

SHAPE = (8, 512, 38, 38)  # conv4_3 of SSD300 at batch 8
# (candidate, column, at least), channels_last
_GOALS = (
    ("L2Norm", "forward_times_faster", 1.4),
    ("L2Norm", "both_times_faster", 1.8),
    ("L2Norm compiled", "forward_times_faster", 2.5),
    ("L2Norm compiled", "both_times_faster", 3.5),
)
_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
Formula = Callable[[Tensor, Tensor], Tensor]


def measure(settings: Settings) -> Table:
    """L2Norm, eager and compiled, its rivals, and a copy; the compiled layer only without ``quick``."""
    rows = measure_l2_norm(settings, SHAPE, repeats=5 if settings.quick else 40, compiled=not settings.quick)
    input_mb = 4 * torch.Size(SHAPE).numel() / 1e6
    goals = l2_norm_goals(rows, input_mb=input_mb)
    missed = dict.fromkeys(goal.what.partition(",")[0] for goal in goals if goal.met is False)
    return Table(
        "l2_norm",
        f"Input {SHAPE} float32, conv4_3 of SSD300 at batch 8. *Times faster* is the median over the rounds of "
        "(amdegroot's formula / this one); *both* is forward and backward; *kept* is what autograd holds for the "
        "backward pass, the input included. The rivals run in eager mode, as published.",
        rows,
        goals,
        [_profile(settings, candidate) for candidate in missed],
    )


def l2_norm_goals(rows: Sequence[dict[str, Any]], *, input_mb: float) -> list[Goal]:
    """The goals for channels_last.

    Args:
        input_mb: size of the input; nothing else (but a number a position) may be kept for the backward pass.
    """
    found = {row["candidate"]: row for row in rows if row["memory_format"] == "channels_last"}
    goals = []
    for candidate, column, goal in _GOALS:
        what = f"{candidate}, {column.removesuffix('_times_faster')}, over amdegroot's formula"
        if candidate in found:
            goals.append(Goal(what, goal, found[candidate][column]))
        else:
            goals.append(Goal(what, goal, None, note="left out by --quick"))
    kept = found["L2Norm"]["kept_mb"]
    return [*goals, Goal("L2Norm, kept: the input", round(1.01 * input_mb, 1), kept, unit="MB", at_most=True)]


def measure_l2_norm(
    settings: Settings,
    shape: Sequence[int] = SHAPE,
    *,
    repeats: int = 25,
    compiled: bool = True,
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """Time all candidates side by side in both memory formats.

    Args:
        shape: of the input, (B, C, H, W).
        repeats: rounds that count, after three that do not.
        compiled: whether to measure ``torch.compile(L2Norm)`` too (it takes a minute to compile on a CPU).
        dtype: of the input; the weight stays float32.
    """
    return [row for name in _FORMATS for row in _measure_format(settings, name, shape, repeats, compiled, dtype)]


def amdegroot_formula(x: Tensor, weight: Tensor) -> Tensor:
    """The formula of ssd.pytorch, lufficc's SSD and mmdetection: eps outside the root."""
    length = x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10
    return weight.unsqueeze(0).unsqueeze(2).unsqueeze(3).expand_as(x) * x.div(length)


def normalize_formula(x: Tensor, weight: Tensor) -> Tensor:
    """The formula of torchvision's SSD."""
    return weight.view(1, -1, 1, 1) * F.normalize(x)


def _copy(x: Tensor, weight: Tensor) -> Tensor:
    return x.clone()


def _profile(settings: Settings, candidate: str) -> str:
    """Where the time of a candidate that misses a goal goes, channels_last."""
    x, grad, weight = _inputs(settings, "channels_last", SHAPE, torch.float32)
    formula = _candidates(SHAPE[1], x.device, compiled=True)[candidate]
    leaves = x.requires_grad_(), weight.requires_grad_()
    where = top_operators(lambda: torch.autograd.grad(formula(*leaves), leaves, grad))
    return f"Where the time of '{candidate}', forward and backward, goes: {where}."


def _inputs(
    settings: Settings, memory_format: str, shape: Sequence[int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Input, gradient of the output, weight."""
    generator = torch.Generator(settings.device).manual_seed(0)
    x, grad = (
        torch.randn(*shape, device=settings.device, dtype=dtype, generator=generator).to(
            memory_format=_FORMATS[memory_format]
        )
        for _ in range(2)
    )
    return x, grad, torch.empty(shape[1], device=settings.device).uniform_(10, 30, generator=generator)


def _measure_format(
    settings: Settings, memory_format: str, shape: Sequence[int], repeats: int, compiled: bool, dtype: torch.dtype
) -> list[dict[str, Any]]:
    x, grad, weight = _inputs(settings, memory_format, shape, dtype)
    candidates = _candidates(shape[1], x.device, compiled)
    leaf, leaf_weight = x.clone().requires_grad_(), weight.clone().requires_grad_()

    def forward(formula: Formula) -> Callable[[], Tensor]:
        return torch.no_grad()(lambda: formula(x, weight))

    def both(formula: Formula) -> Callable[[], None]:
        def call() -> None:
            leaf.grad = leaf_weight.grad = None
            formula(leaf, leaf_weight).backward(grad)

        return call

    options: dict[str, Any] = {"synchronize": settings.synchronize, "clock": settings.clock}
    calls = {(name, way.__name__): way(formula) for name, formula in candidates.items() for way in (forward, both)}
    times = interleaved(calls, repeats=repeats, warm_up=3, **options)
    return [
        {
            "memory_format": memory_format,
            "candidate": name,
            **{f"{way}_ms": times.ms((name, way)) for way in ("forward", "both")},
            **{f"{way}_times_faster": times.ratio(("amdegroot", way), (name, way)) for way in ("forward", "both")},
            "kept_mb": _saved_bytes(formula, x, weight) / 1e6,
        }
        for name, formula in candidates.items()
    ]


def _candidates(channels: int, device: torch.device, compiled: bool) -> dict[str, Formula]:
    layer = L2Norm(channels, device=device)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        layer.weight = weight
        y: Tensor = layer(x)
        return y

    del layer.weight  # the weight is an argument here, as it is for the rivals
    candidates: dict[str, Formula] = {
        "amdegroot": amdegroot_formula,
        "F.normalize * w": normalize_formula,
        "L2Norm": ours,
    }
    if compiled:
        candidates["L2Norm compiled"] = torch.compile(ours, dynamic=False)
    return {**candidates, "copy": _copy}


def _saved_bytes(formula: Formula, x: Tensor, weight: Tensor) -> int:
    """Bytes of distinct storage that autograd holds between forward and backward."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = formula(x.detach().requires_grad_(), weight.detach().requires_grad_())
        y.sum().backward()
    return sum(storages.values())
