"""This file is about places: which maps of a model are looked at, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from ssdnorm.diagnose.ssd_parts import find_ssd_parts
from ssdnorm.messages import did_you_mean


@dataclass(frozen=True)
class Place:
    """One side of a module; several of its outputs, and several calls, are all looked at."""

    module: nn.Module
    side: Literal["input", "output"] = "output"


def default_places(model: nn.Module) -> dict[str, Place]:
    """What to look at in a model when nothing is asked for.

    In an SSD: every convolution block after its ReLU by the paper's name, and ``tap <name>``, each tap as the head sees
    it, after its norm. In anything else: the output of every module without children, by its name.

    Example:
        >>> list(default_places(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())))
        ['0', '1']
    """
    parts = find_ssd_parts(model)
    if parts is None:
        leaves = {name: m for name, m in model.named_modules() if not any(m.children())}
        return {name or type(module).__name__: Place(module) for name, module in leaves.items()}
    places = {name: Place(relu) for name, relu in parts.activations.items()}
    for name, norm in parts.tap_norms.items():
        if name not in places:
            places[name] = Place(norm, "input")
    return places | {f"tap {name}": Place(norm) for name, norm in parts.tap_norms.items()}


def find_places(model: nn.Module, names: Sequence[str]) -> dict[str, Place]:
    """The places of these names: those of ``default_places``, and any module's output by its full name.

    Raises:
        ValueError: an unknown name, with the nearest known one.
    """
    known = {name: Place(module) for name, module in model.named_modules() if name} | default_places(model)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            some = ", ".join(list(default_places(model))[:40])
            raise ValueError(f"layers: no layer {name!r}; choose some of: {some}, or any module by its name.{hint}")
    return {name: known[name] for name in names}
