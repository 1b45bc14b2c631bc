"""Build norms from specs by name, and find the norms of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from ssdnorm.layers.batch_norm import FrozenBatchNorm, frozen_batch_norm_types
from ssdnorm.layers.channel_norms import ChannelLayerNorm, ChannelRMSNorm, InstanceNorm
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.norm_specs import check_option_names, import_class, is_custom, parse_norm_spec

NormSpec = str | Mapping[str, Any] | Callable[[int], nn.Module]


@dataclass(frozen=True)
class Norm:
    """One entry of ``NORMS``: how the norm is built, and the types of module that count as this norm."""

    build: Callable[..., nn.Module]
    types: tuple[type[nn.Module], ...]


def _group_norm(channels: int, *, groups: int = 32, eps: float = 1e-5, affine: bool = True) -> nn.Module:
    if channels % groups:
        divisors = [str(n) for n in range(1, channels + 1) if channels % n == 0]
        raise ValueError(
            f"{groups} groups do not divide {channels} channels; choose groups from: {', '.join(divisors)}"
        )
    return nn.GroupNorm(groups, channels, eps=eps, affine=affine)


# their options are in ``norm_specs``, which needs no torch
NORMS: Mapping[str, Norm] = MappingProxyType(
    {
        "none": Norm(lambda channels: nn.Identity(), ()),
        "l2_norm": Norm(L2Norm, (L2Norm,)),
        "batch_norm": Norm(nn.BatchNorm2d, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
        "sync_batch_norm": Norm(nn.SyncBatchNorm, (nn.SyncBatchNorm,)),
        "frozen_batch_norm": Norm(FrozenBatchNorm, (FrozenBatchNorm,)),
        "group_norm": Norm(_group_norm, (nn.GroupNorm,)),
        "layer_norm": Norm(ChannelLayerNorm, (ChannelLayerNorm,)),
        "rms_norm": Norm(ChannelRMSNorm, (ChannelRMSNorm,)),
        "instance_norm": Norm(InstanceNorm, (_InstanceNorm,)),
    }
)


@dataclass(frozen=True)
class NormFactory:
    """Build one norm per call: ``factory(channels) -> Module``. Returned by ``norm_layer``; can be pickled.

    Attributes:
        kind: a name of ``NORMS``, or ``"package.module:Class"``.
        options: arguments of the norm besides the channel count.
        where: the argument or config key that messages start with.
        given: a class or function ``channels -> Module`` that is called instead; its model cannot be saved.
    """

    kind: str
    options: Mapping[str, Any]
    where: str
    given: Callable[[int], nn.Module] | None = None

    @property
    def spec(self) -> str | dict[str, Any]:
        """The norm spec that makes this factory again."""
        return {"kind": self.kind, **self.options} if self.options else self.kind

    def __call__(self, channels: int) -> nn.Module:
        if self.given is not None or self.kind in NORMS:
            return mark_norm(self._build(self.given or NORMS[self.kind].build, channels))
        build = import_class(self.kind)
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


def norm_layer(spec: NormSpec, *, where: str = "norm") -> NormFactory:
    """Turn a norm spec into a norm factory.

    Args:
        spec: a name of ``NORMS``; a mapping with the name under ``kind`` and its options; or
            ``"package.module:Class"``, called with the channel count and options that its signature names. A factory
            is returned unchanged; any other class or function ``channels -> Module`` becomes one.
        where: the argument or config key that messages start with.

    Raises:
        ValueError: an unknown name or option, a value out of range, a class that cannot be imported; by the factory, a
            number of channels that the norm cannot have.

    Example:
        >>> norm_layer({"kind": "group_norm", "groups": 4})(8).num_groups
        4
        >>> norm_layer({"kind": "group_norm", "group": 4}, where="norm.extras")
        Traceback (most recent call last):
        ValueError: norm.extras: group_norm: unknown option 'group'; choose one of: affine, eps, groups. Did you ...
    """
    if isinstance(spec, NormFactory):
        return spec
    if callable(spec) and not isinstance(spec, nn.Module):
        return NormFactory(getattr(spec, "__name__", type(spec).__name__), {}, where, spec)
    try:
        kind, options = parse_norm_spec(spec)
        if is_custom(kind):
            build = import_class(kind)
            if not callable(build):
                raise ValueError(f"{kind!r} is not a class; got {build!r}")
            check_option_names(kind, options, _named_options(build))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return NormFactory(kind, options, where)


def _named_options(build: Callable[..., nn.Module]) -> list[str]:
    try:
        parameters = list(inspect.signature(build).parameters.values())[1:]
    except (TypeError, ValueError):  # C functions have no signature
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


_NORM_TYPES = (
    *(kind for norm in NORMS.values() for kind in norm.types),
    _NormBase,  # torch's batch and instance norms of any class
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
_MARK = "is_ssdnorm_norm"


def mark_norm(module: nn.Module) -> nn.Module:
    """Mark a module of any class but ``nn.Identity`` as a norm and return it. The mark survives deepcopy and pickle."""
    if not isinstance(module, nn.Identity):
        setattr(module, _MARK, True)
    return module


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm: a known type (torchvision's included), or marked by ``mark_norm``."""
    return isinstance(module, (*_NORM_TYPES, *frozen_batch_norm_types())) or getattr(module, _MARK, False)


def norm_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that belong to norms, as in ``model.named_parameters()``."""
    of_norms = {id(parameter) for module in model.modules() if is_norm(module) for parameter in module.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in of_norms}
