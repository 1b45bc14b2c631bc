"""This file is about what L2Norm costs beside the two formulas in use and a copy of the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssdnorm.layers import L2Norm

# (candidate, column, at least), channels_last
_GOALS = (
    ("L2Norm", "forward_speedup", 1.4),
    ("L2Norm", "forward_backward_speedup", 1.8),
    ("L2Norm compiled", "forward_speedup", 2.5),
    ("L2Norm compiled", "forward_backward_speedup", 3.5),
)
_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
Formula = Callable[[Tensor, Tensor], Tensor]


def measure_l2_norm(
    shape: Sequence[int] = (8, 512, 38, 38),
    *,
    repeats: int = 25,
    compiled: bool = True,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[dict[str, Any]]:
    """Time L2Norm, eager and compiled, and its rivals side by side.

    All candidates run once in every round, so that a noisy neighbour hits them alike; a time is the median of the
    rounds, a speed-up the median over rounds of (amdegroot's formula / this one). The rivals run in eager mode.

    Args:
        shape: of the input, (B, C, H, W); the default is conv4_3 of SSD300 at batch 8.
        repeats: rounds that count, after three that do not.
        compiled: whether to measure ``torch.compile(L2Norm)`` too (it takes a minute to compile on a CPU).
        device: where to measure.
        dtype: of the input; the weight stays float32.

    Returns:
        Rows with memory_format, candidate, forward_ms, forward_backward_ms, forward_speedup, forward_backward_speedup,
        saved_mb (kept for the backward pass, input included).
    """
    return [row for name in _FORMATS for row in _measure_format(name, shape, repeats, compiled, device, dtype)]


def l2_norm_table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = "| memory format | candidate | forward ms | forward+backward ms | forward × | forward+backward × | kept MB |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row['memory_format']} | {row['candidate']} "
            f"| {row['forward_ms']:.1f} | {row['forward_backward_ms']:.1f} "
            f"| {row['forward_speedup']:.2f} | {row['forward_backward_speedup']:.2f} | {row['saved_mb']:.1f} |"
        )
    return "\n".join(lines)


def l2_norm_goals(rows: Iterable[dict[str, Any]], *, input_mb: float) -> str:
    """The goals for channels_last as a Markdown table: goal, measured, met or not.

    Args:
        input_mb: size of the input; nothing else (but a number a position) may be kept for the backward pass.
    """
    found = {row["candidate"]: row for row in rows if row["memory_format"] == "channels_last"}
    lines = ["| channels_last | goal | measured | |", "|---|---|---|---|"]
    for candidate, column, goal in _GOALS:
        if candidate in found:
            got = found[candidate][column]
            what = column.removesuffix("_speedup").replace("_", "+")
            lines.append(f"| {candidate}, {what} | ≥ {goal} × | {got:.2f} × | {_met(got >= goal)} |")
    kept = found["L2Norm"]["saved_mb"]
    lines.append(f"| L2Norm, kept | the input, {input_mb:.1f} MB | {kept:.1f} MB | {_met(kept < 1.01 * input_mb)} |")
    return "\n".join(lines)


def _met(met: bool) -> str:
    return "met" if met else "not met"


def amdegroot_formula(x: Tensor, weight: Tensor) -> Tensor:
    """The formula of ssd.pytorch, lufficc's SSD and mmdetection: eps outside the root."""
    length = x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10
    return weight.unsqueeze(0).unsqueeze(2).unsqueeze(3).expand_as(x) * x.div(length)


def normalize_formula(x: Tensor, weight: Tensor) -> Tensor:
    """The formula of torchvision's SSD."""
    return weight.view(1, -1, 1, 1) * F.normalize(x)


def _copy(x: Tensor, weight: Tensor) -> Tensor:
    return x.clone()


def _measure_format(
    memory_format: str,
    shape: Sequence[int],
    repeats: int,
    compiled: bool,
    device: torch.device | str,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    generator = torch.Generator(device).manual_seed(0)
    x, grad = (
        torch.randn(*shape, device=device, dtype=dtype, generator=generator).to(memory_format=_FORMATS[memory_format])
        for _ in range(2)
    )
    weight = torch.empty(shape[1], device=device).uniform_(10, 30, generator=generator)
    candidates = _candidates(shape[1], x.device, compiled)
    forward: dict[str, list[float]] = {name: [] for name in candidates}
    both: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(3 + repeats):
        for name, formula in candidates.items():
            seconds = _time_forward(formula, x, weight), _time_both(formula, x, weight, grad)
            if round_ >= 3:
                forward[name].append(seconds[0])
                both[name].append(seconds[1])
    return [
        {
            "memory_format": memory_format,
            "candidate": name,
            "forward_ms": 1e3 * median(forward[name]),
            "forward_backward_ms": 1e3 * median(both[name]),
            "forward_speedup": _speedup(forward["amdegroot"], forward[name]),
            "forward_backward_speedup": _speedup(both["amdegroot"], both[name]),
            "saved_mb": _saved_bytes(formula, x, weight) / 1e6,
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


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _time_forward(formula: Formula, x: Tensor, weight: Tensor) -> float:
    with torch.no_grad():
        start = _now(x)
        formula(x, weight)
        return _now(x) - start


def _time_both(formula: Formula, x: Tensor, weight: Tensor, grad: Tensor) -> float:
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    start = _now(x)
    formula(x, weight).backward(grad.to(x.dtype))
    return _now(x) - start


def _speedup(base: Sequence[float], other: Sequence[float]) -> float:
    return median(a / b for a, b in zip(base, other, strict=True))


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
