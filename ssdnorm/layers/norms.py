"""This file is about NORMS and norm_layer: from the words of a config to a factory that builds one norm."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ssdnorm.layers.channel_norms import ChannelLayerNorm, ChannelRMSNorm
from ssdnorm.layers.frozen_batch_norm import FrozenBatchNorm
from ssdnorm.layers.instance_norm import InstanceNorm
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.layers.norm_parameters import mark_norm
from ssdnorm.layers.sync_batch_norm import SyncBatchNorm
from ssdnorm.messages import did_you_mean


@dataclass(frozen=True)
class Option:
    """One option of a norm: what may be written for it."""

    allowed: str
    accepts: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_POSITIVE = Option("a number > 0", lambda v: _is_number(v) and v > 0)
_NUMBER = Option("a number", _is_number)
_COUNT = Option("a whole number ≥ 1", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1)
_SWITCH = Option("true or false", lambda v: isinstance(v, bool))
_MOMENTUM = Option(
    "a number in (0, 1], the share of the new batch, or null for a plain average",
    lambda v: v is None or (_is_number(v) and 0 < v <= 1),
)


@dataclass(frozen=True)
class Norm:
    """One entry of ``NORMS``: how the norm is built and which options it takes."""

    build: Callable[..., nn.Module]
    options: Mapping[str, Option] = field(default_factory=dict)


def _no_norm(channels: int) -> nn.Module:
    return nn.Identity()


def _group_norm(channels: int, *, groups: int = 32, eps: float = 1e-5, affine: bool = True) -> nn.Module:
    if channels % groups:
        divisors = [str(n) for n in range(1, channels + 1) if channels % n == 0]
        raise ValueError(
            f"{groups} groups do not divide {channels} channels; choose groups from: {', '.join(divisors)}"
        )
    return nn.GroupNorm(groups, channels, eps=eps, affine=affine)


_BATCH_OPTIONS = {"eps": _POSITIVE, "momentum": _MOMENTUM, "affine": _SWITCH}

NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "none": Norm(_no_norm),
        "l2_norm": Norm(L2Norm, {"scale": _NUMBER, "eps": _POSITIVE, "learnable": _SWITCH}),
        "batch_norm": Norm(nn.BatchNorm2d, _BATCH_OPTIONS),
        "sync_batch_norm": Norm(SyncBatchNorm, _BATCH_OPTIONS),
        "frozen_batch_norm": Norm(FrozenBatchNorm, {"eps": _POSITIVE}),
        "group_norm": Norm(_group_norm, {"groups": _COUNT, "eps": _POSITIVE, "affine": _SWITCH}),
        "layer_norm": Norm(ChannelLayerNorm, {"eps": _POSITIVE, "affine": _SWITCH}),
        "rms_norm": Norm(ChannelRMSNorm, {"eps": _POSITIVE, "affine": _SWITCH}),
        "instance_norm": Norm(InstanceNorm, {"eps": _POSITIVE, "affine": _SWITCH}),
    }
)


@dataclass(frozen=True)
class NormFactory:
    """Builds one norm a call: ``factory(channels) -> Module``. Made by ``norm_layer``; can be pickled.

    Attributes:
        kind: a name of ``NORMS``, or ``"package.module:Class"``.
        options: what is passed to the norm beside the channel count.
        where: the place of the spec in the config, for messages.
    """

    kind: str
    options: Mapping[str, Any]
    where: str

    def __call__(self, channels: int) -> nn.Module:
        if self.kind in NORMS:
            return mark_norm(self._build(NORMS[self.kind].build, channels))
        build = _load(self.kind, self.where)
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self._try_out(self._build(build, channels), channels)
        return mark_norm(self._build(build, channels))

    def _build(self, build: Callable[..., nn.Module], channels: int) -> nn.Module:
        try:
            module = build(channels, **self.options)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"{self.where}: {self.kind} for {channels} channels: {error}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"{self.where}: {self.kind}: expected a Module from ({channels}); got {module!r}")
        return module

    def _try_out(self, module: nn.Module, channels: int) -> None:
        """Refuse a class of somebody else's that no map of features can go through."""
        if any(is_lazy(parameter) for parameter in module.parameters()):
            raise ValueError(f"{self.where}: {self.kind}: has no parameters before its first input")
        maps = torch.zeros(2, channels, 3, 3)
        try:
            y = module(maps)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.where}: {self.kind}: takes no map {tuple(maps.shape)}: {reason}") from error
        if not isinstance(y, torch.Tensor) or y.shape != maps.shape:
            got = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise ValueError(f"{self.where}: {self.kind}: expected a map {tuple(maps.shape)} from it; got {got}")


def norm_layer(spec: str | Mapping[str, Any], *, where: str = "norm") -> NormFactory:
    """The norm factory that a norm spec stands for.

    Args:
        spec: a name of ``NORMS``; a mapping with the name under ``kind`` and options beside it; or
            ``"package.module:Class"``, called with the channel count (options must be arguments that it names).
        where: the place of the spec in the config, for messages.

    Returns:
        ``channels -> Module``; ``nn.Identity`` for ``none``. It raises a ValueError where the norm cannot have that
        many channels.

    Raises:
        ValueError: an unknown name or option, a value out of range, a class that cannot be imported.

    Example:
        >>> norm_layer({"kind": "group_norm", "groups": 4})(8).num_groups
        4
        >>> norm_layer({"kind": "group_norm", "group": 4}, where="norm.extras")
        Traceback (most recent call last):
        ValueError: norm.extras: group_norm: unknown option 'group'; choose one of: affine, eps, groups. Did you ...
    """
    kind, options = _split(spec, where)
    if ":" in kind:
        known: Iterable[str] = _named_options(_load(kind, where))
    elif kind in NORMS:
        known = NORMS[kind].options
    else:
        choices = _choices(kind, NORMS, also="'package.module:Class'")
        raise ValueError(f"{where}: unknown norm {kind!r}; {choices}")
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{where}: {kind}: unknown option {name!r}; {_choices(name, known)}")
        if kind in NORMS and not NORMS[kind].options[name].accepts(value):
            hint = (
                " (YAML reads 1e-5 as text: write 1.0e-5)" if isinstance(value, str) and _reads_as_number(value) else ""
            )
            allowed = NORMS[kind].options[name].allowed
            raise ValueError(f"{where}.{name}: {kind}: expected {allowed}; got {value!r}{hint}")
    return NormFactory(kind, options, where)


def _split(spec: object, where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and isinstance(spec.get("kind"), str):
        return spec["kind"], {str(name): value for name, value in spec.items() if name != "kind"}
    names = ", ".join(sorted(NORMS))
    near = " Did you mean 'none'?" if spec is None else ""
    raise ValueError(
        f"{where}: expected a norm name or a mapping with 'kind'; got {spec!r}; choose one of: {names}.{near}"
    )


def _choices(got: str, known: Iterable[str], *, also: str = "") -> str:
    names = sorted(known)
    if not names:
        return "it has no options"
    listed = ", ".join(names) + (f", {also}" if also else "")
    return f"choose one of: {listed}.{did_you_mean(got, names)}"


def _named_options(build: Callable[..., nn.Module]) -> list[str]:
    """The arguments after the first that a class names; ``*args`` and ``**kwargs`` name none."""
    try:
        parameters = list(inspect.signature(build).parameters.values())[1:]
    except (TypeError, ValueError):  # of C functions, which have no signature
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _reads_as_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _load(path: str, where: str) -> Callable[..., nn.Module]:
    module_name, _, class_name = path.partition(":")
    try:
        loaded = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: cannot import {path!r} (package.module:Class): {error}") from error
    if not callable(loaded):
        raise ValueError(f"{where}: {path!r} is not a class; got {loaded!r}")
    build: Callable[..., nn.Module] = loaded
    return build
