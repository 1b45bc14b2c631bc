"""SGD or AdamW over named parameter groups, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer


@dataclass(frozen=True)
class GroupRule:
    """Learning-rate factor and weight decay of a parameter group."""

    lr_factor: float
    weight_decay: float


def make_optimizer(
    model: nn.Module,
    *,
    name: Literal["sgd", "adamw"] = "sgd",
    lr: float,
    momentum: float,
    weight_decay: float,
    norm_names: Collection[str],
    norms: GroupRule,
    biases: GroupRule,
    fused: bool = True,
) -> Optimizer:
    """Make SGD or AdamW over three groups: ``norms``, ``biases`` (of anything else) and ``weights``.

    A parameter that needs no gradient is in no group.

    Args:
        momentum: of SGD; AdamW's first beta (its second is PyTorch's, 0.999).
        norm_names: names of the norms' parameters; these are in ``norms`` even if they are called bias.
        fused: one kernel for all parameters. It divides by fp16's loss scale itself, after any clipping, so Lightning
            rejects it where gradients are clipped in mixed precision. Otherwise PyTorch chooses the implementation.
    """
    rules = {"weights": GroupRule(1.0, weight_decay), "norms": norms, "biases": biases}
    members: dict[str, list[nn.Parameter]] = {group: [] for group in rules}
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = "norms" if key in norm_names else "biases" if key.endswith("bias") else "weights"
            members[group].append(parameter)
    groups: list[dict[str, Any]] = [
        {"name": group, "params": members[group], "lr": lr * rule.lr_factor, "weight_decay": rule.weight_decay}
        for group, rule in rules.items()
        if members[group]
    ]
    if name == "adamw":
        return AdamW(groups, lr=lr, betas=(momentum, 0.999), weight_decay=weight_decay, fused=fused or None)
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused or None)


def describe_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
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
    *,
    warmup_steps: int,
    warmup_factor: float,
    lr_drops: Sequence[int] = (),
    lr_drop_factor: float = 0.1,
    cosine_until: int | None = None,
) -> Callable[[int], float]:
    """Factor on the learning rate by step: a linear warmup from ``warmup_factor``, then drops or a cosine.

    Args:
        lr_drops: steps from which the rate is multiplied by ``lr_drop_factor`` once more.
        cosine_until: the step at which half a cosine, which begins after the warmup, reaches 0.

    Sources:
        I. Loshchilov, F. Hutter, SGDR (arXiv:1608.03983), equation 5, for the cosine, without restarts.

    Example:
        >>> factor = lr_schedule(warmup_steps=4, warmup_factor=0.2, lr_drops=[10], lr_drop_factor=0.1)
        >>> [round(factor(step), 2) for step in (0, 2, 4, 9, 10)]
        [0.2, 0.6, 1.0, 1.0, 0.1]
    """

    def factor(step: int) -> float:
        rise = min(1.0, warmup_factor + (1 - warmup_factor) * step / warmup_steps) if warmup_steps else 1.0
        if cosine_until is not None and step > warmup_steps:
            done = min(1.0, (step - warmup_steps) / max(1, cosine_until - warmup_steps))
            return (1 + math.cos(math.pi * done)) / 2
        return rise * lr_drop_factor ** sum(step >= drop for drop in lr_drops)

    return factor
