"""This file is about NORMS and norm_layer: from the words of a config to a factory that builds one norm."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

from ssdnorm.layers.channel_norms import ChannelLayerNorm, ChannelRMSNorm
from ssdnorm.layers.frozen_batch_norm import FrozenBatchNorm
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.layers.norm_parameters import mark_norm


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
_MOMENTUM = Option("a number in (0, 1], or null for a plain average", lambda v: v is None or (_is_number(v) and 0 < v <= 1))


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
        raise ValueError(f"{groups} groups do not divide {channels} channels; choose groups from: {', '.join(divisors)}")
    return nn.GroupNorm(groups, channels, eps=eps, affine=affine)


def _instance_norm(channels: int, *, eps: float = 1e-5, affine: bool = True) -> nn.Module:
    return nn.InstanceNorm2d(channels, eps=eps, affine=affine)


_BATCH_OPTIONS = {"eps": _POSITIVE, "momentum": _MOMENTUM, "affine": _SWITCH}

NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "none": Norm(_no_norm),
        "l2_norm": Norm(L2Norm, {"scale": _NUMBER, "eps": _POSITIVE, "learnable": _SWITCH}),
        "batch_norm": Norm(nn.BatchNorm2d, _BATCH_OPTIONS),
        "sync_batch_norm": Norm(nn.SyncBatchNorm, _BATCH_OPTIONS),
        "frozen_batch_norm": Norm(FrozenBatchNorm, {"eps": _POSITIVE}),
        "group_norm": Norm(_group_norm, {"groups": _COUNT, "eps": _POSITIVE, "affine": _SWITCH}),
        "layer_norm": Norm(ChannelLayerNorm, {"eps": _POSITIVE}),
        "rms_norm": Norm(ChannelRMSNorm, {"eps": _POSITIVE}),
        "instance_norm": Norm(_instance_norm, {"eps": _POSITIVE, "affine": _SWITCH}),
    }
)


@dataclass(frozen=True)
class NormFactory:
    """Builds one norm per call: ``factory(channels) -> Module``. Made by ``norm_layer``; can be pickled."""

    kind: str
    options: Mapping[str, Any]
    where: str

    def __call__(self, channels: int) -> nn.Module:
        build = NORMS[self.kind].build if self.kind in NORMS else _load(self.kind, self.where)
        try:
            module = build(channels, **self.options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.where}: {self.kind}: {error}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"{self.where}: {self.kind}: expected a Module from ({channels}); got {module!r}")
        return mark_norm(module)


def norm_layer(spec: str | Mapping[str, Any], *, where: str = "norm") -> NormFactory:
    """The norm factory that a norm spec stands for.

    Args:
        spec: a name of ``NORMS``; a mapping with the name under ``kind`` and options beside it; or
            ``"package.module:Class"``, called with the channel count.
        where: the place of the spec in the config, for messages.

    Raises:
        ValueError: an unknown name or option, a value out of range, a class that cannot be imported.

    Example:
        >>> norm_layer({"kind": "group_norm", "groups": 4})(8)
        GroupNorm(4, 8, eps=1e-05, affine=True)
        >>> norm_layer("batchnorm", where="norm.backbone")
        Traceback (most recent call last):
        ValueError: norm.backbone: unknown norm 'batchnorm'; choose one of: batch_norm, ...
    """
    kind, options = _split(spec, where)
    if ":" in kind:
        allowed = {name: None for name in list(inspect.signature(_load(kind, where)).parameters)[1:]}
        known: Iterable[str] = allowed
    elif kind in NORMS:
        known = NORMS[kind].options
    else:
        raise ValueError(f"{where}: unknown norm {kind!r}; {_choices(kind, NORMS)} (or 'package.module:Class')")
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{where}: {kind}: unknown option {name!r}; {_choices(name, known)}")
        if kind in NORMS and not NORMS[kind].options[name].accepts(value):
            raise ValueError(f"{where}.{name}: {kind}: expected {NORMS[kind].options[name].allowed}; got {value!r}")
    return NormFactory(kind, MappingProxyType(dict(options)), where)


def _split(spec: str | Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("kind"), str):
        raise ValueError(f"{where}: expected a norm name or a mapping with 'kind'; got {spec!r}")
    return spec["kind"], {str(name): value for name, value in spec.items() if name != "kind"}


def _choices(got: str, known: Iterable[str]) -> str:
    names = sorted(known)
    if not names:
        return "it has no options"
    near = difflib.get_close_matches(got, names, n=1)
    return f"choose one of: {', '.join(names)}" + (f". Did you mean {near[0]!r}?" if near else "")


def _load(path: str, where: str) -> Callable[..., nn.Module]:
    module_name, _, class_name = path.partition(":")
    try:
        loaded = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: cannot import {path!r} (package.module:Class): {error}") from error
    if not callable(loaded):
        raise ValueError(f"{where}: {path!r} is not a class; got {loaded!r}")
    return loaded
