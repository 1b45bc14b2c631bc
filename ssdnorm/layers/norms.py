"""NORMS and norm_layer: from a norm spec to a factory that builds the layer; which parameters belong to norms."""

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
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from ssdnorm.layers.batch_norm import FrozenBatchNorm, SyncBatchNorm, frozen_batch_norm_types
from ssdnorm.layers.channel_norms import ChannelLayerNorm, ChannelRMSNorm, InstanceNorm
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.messages import did_you_mean


@dataclass(frozen=True)
class Option:
    """The values that one option of a norm accepts, and how messages describe them."""

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
    """One entry of ``NORMS``: how the norm is built, and its options."""

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
    """Build one norm per call: ``factory(channels) -> Module``. Returned by ``norm_layer``; can be pickled.

    Attributes:
        kind: a name of ``NORMS``, or ``"package.module:Class"``.
        options: arguments of the norm besides the channel count.
        where: the argument or config key that messages start with.
    """

    kind: str
    options: Mapping[str, Any]
    where: str

    @property
    def spec(self) -> str | dict[str, Any]:
        """The norm spec that makes this factory again."""
        return {"kind": self.kind, **self.options} if self.options else self.kind

    def __call__(self, channels: int) -> nn.Module:
        if self.kind in NORMS:
            return mark_norm(self._build(NORMS[self.kind].build, channels))
        build = _load(self.kind, self.where)
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self._check_shape_is_kept(self._build(build, channels), channels)
        return mark_norm(self._build(build, channels))

    def _build(self, build: Callable[..., nn.Module], channels: int) -> nn.Module:
        try:
            module = build(channels, **self.options)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"{self.where}: {self.kind} for {channels} channels: {error}") from error
        if not isinstance(module, nn.Module):
            raise ValueError(f"{self.where}: {self.kind}: expected a Module from ({channels}); got {module!r}")
        return module

    def _check_shape_is_kept(self, module: nn.Module, channels: int) -> None:
        """Reject a custom class that does not map a feature map to one of the same shape."""
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


def norm_layer(spec: str | Mapping[str, Any] | NormFactory, *, where: str = "norm") -> NormFactory:
    """Turn a norm spec into a norm factory.

    Args:
        spec: a name of ``NORMS``; a mapping with the name under ``kind`` and its options; or
            ``"package.module:Class"``, called with the channel count and options that its signature names. A factory
            is returned unchanged.
        where: the argument or config key that messages start with.

    Returns:
        ``channels -> Module``; ``nn.Identity`` for ``none``. Raises a ValueError if the norm cannot have that many
        channels.

    Raises:
        ValueError: an unknown name or option, a value out of range, a class that cannot be imported.

    Example:
        >>> norm_layer({"kind": "group_norm", "groups": 4})(8).num_groups
        4
        >>> norm_layer({"kind": "group_norm", "group": 4}, where="norm.extras")
        Traceback (most recent call last):
        ValueError: norm.extras: group_norm: unknown option 'group'; choose one of: affine, eps, groups. Did you ...
    """
    if isinstance(spec, NormFactory):
        return spec
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
            is_text = isinstance(value, str) and _reads_as_number(value)
            hint = " (YAML reads 1e-5 as text: write 1.0e-5)" if is_text else ""
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
    """The named arguments of a class after the first."""
    try:
        parameters = list(inspect.signature(build).parameters.values())[1:]
    except (TypeError, ValueError):  # C functions have no signature
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


NORM_TYPES: tuple[type[nn.Module], ...] = (
    L2Norm,
    FrozenBatchNorm,
    ChannelLayerNorm,
    ChannelRMSNorm,
    _NormBase,  # torch's batch, sync-batch and instance norms of any dimension
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_MARK = "is_ssdnorm_norm"


def mark_norm(module: nn.Module) -> nn.Module:
    """Mark a module of any class as a norm and return it. The mark survives deepcopy and pickle."""
    setattr(module, _MARK, True)
    return module


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: a known type (torchvision's included), or marked by ``mark_norm``."""
    return isinstance(module, (*NORM_TYPES, *frozen_batch_norm_types())) or getattr(module, _MARK, False)


def norm_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that belong to norms, as in ``model.named_parameters()``."""
    of_norms = {id(parameter) for module in model.modules() if is_norm(module) for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in of_norms}
