"""SGD over named parameter groups, and its learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import SGD


@dataclass(frozen=True)
class GroupRule:
    """Learning-rate factor and weight decay of a parameter group."""

    lr_factor: float
    weight_decay: float


def make_sgd(
    model: nn.Module,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    norm_names: Collection[str],
    norms: GroupRule,
    biases: GroupRule,
    fused: bool = True,
) -> SGD:
    """Make SGD over three groups: ``norms``, ``biases`` (of anything else) and ``weights``.

    A parameter that needs no gradient is in no group.

    Args:
        norm_names: names of the norms' parameters; these are in ``norms`` even if they are called bias.
        fused: one kernel for all parameters. It divides by fp16's loss scale itself, after any clipping, so Lightning
            rejects it where gradients are clipped in mixed precision. Otherwise PyTorch chooses the implementation.
    """
    rules = {"weights": GroupRule(1.0, weight_decay), "norms": norms, "biases": biases}
    members: dict[str, list[nn.Parameter]] = {name: [] for name in rules}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = "norms" if name in norm_names else "biases" if name.endswith("bias") else "weights"
            members[group].append(parameter)
    groups: list[dict[str, Any]] = [
        {"name": name, "params": members[name], "lr": lr * rule.lr_factor, "weight_decay": rule.weight_decay}
        for name, rule in rules.items()
        if members[name]
    ]
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused or None)


def describe_groups(optimizer: SGD) -> list[dict[str, Any]]:
    """One row per group."""
    return [
        {
            "group": group["name"],
            "tensors": len(group["params"]),
            "parameters": sum(p.numel() for p in group["params"]),
            "lr": group.get("initial_lr", group["lr"]),
            "weight_decay": group["weight_decay"],
        }
        for group in optimizer.param_groups
    ]


def groups_table(rows: Sequence[dict[str, Any]]) -> str:
    """Format the rows of :func:`describe_groups` as text."""
    lines = [f"{'group':<8} {'tensors':>7} {'parameters':>12} {'lr':>9} {'weight decay':>12}"]
    lines += [
        f"{r['group']:<8} {r['tensors']:>7} {r['parameters']:>12,} {r['lr']:>9.2g} {r['weight_decay']:>12.2g}"
        for r in rows
    ]
    return "\n".join(lines)


def lr_schedule(
    *, warmup_steps: int, warmup_factor: float, lr_drops: Sequence[int], lr_drop_factor: float
) -> Callable[[int], float]:
    """Factor on the learning rate by step: a linear warmup from ``warmup_factor``, then a drop at each of ``lr_drops``.

    Example:
        >>> factor = lr_schedule(warmup_steps=4, warmup_factor=0.2, lr_drops=[10], lr_drop_factor=0.1)
        >>> [round(factor(step), 2) for step in (0, 2, 4, 9, 10)]
        [0.2, 0.6, 1.0, 1.0, 0.1]
    """

    def factor(step: int) -> float:
        rise = min(1.0, warmup_factor + (1 - warmup_factor) * step / warmup_steps) if warmup_steps else 1.0
        return rise * lr_drop_factor ** sum(step >= drop for drop in lr_drops)

    return factor
