"""Swap the norms of any model, keeping the weights that mean the same in the new norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssdnorm.layers.batch_norm import frozen_batch_norm_types
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.layers.norms import NORMS, NormFactory, NormSpec, is_norm, norm_layer


@dataclass(frozen=True)
class SwappedNorm:
    """One norm that ``swap_norms`` replaced.

    Attributes:
        name: the module's name in the model.
        old, new: class names.
        channels: C.
        kept: weights, statistics and options copied to the new norm.
        dropped: weights and statistics of the old norm that the new one lacks, or that mean something else there.
    """

    name: str
    old: str
    new: str
    channels: int
    kept: tuple[str, ...]
    dropped: tuple[str, ...]


def swap_norms(
    model: nn.Module, *, old: str | type[nn.Module] | tuple[type[nn.Module], ...], new: NormSpec
) -> list[SwappedNorm]:
    """Replace every norm of one kind in any model, in place, and report what changed.

    Affine norms keep their weight and bias. Batch norms, frozen or not, also keep statistics, eps and momentum (unless
    the spec sets them), so the output in eval mode does not change. L2Norm's weight is a length, not a factor around
    1, and is initialised anew. Device, dtype and mode follow the old norm.

    Args:
        model: any module that holds norms. Build the optimizer afterwards.
        old: a name of ``NORMS``, or the class (or classes) to replace.
        new: a norm spec as for ``norm_layer``, or a factory ``channels -> Module``.

    Returns:
        One row per replaced norm, in model order.

    Raises:
        ValueError: nothing matched (the message lists the model's norms), a bad spec, or a class that does more than
            normalise (timm's BatchNormAct2d) and is not named itself as ``old``.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> swap_norms(model, old="batch_norm", new={"kind": "group_norm", "groups": 4})
        [SwappedNorm(name='1', old='BatchNorm2d', new='GroupNorm', channels=8, kept=('weight', 'bias'), dropped=('running_mean', 'running_var', 'num_batches_tracked'))]
    """  # noqa: E501
    types = _types_of(old)
    factory = norm_layer(new, where="swap_norms: new")
    keep = [name for name in ("eps", "momentum") if name not in factory.options]
    found = [(name, m) for name, m in model.named_modules(remove_duplicate=False) if isinstance(m, types)]
    if not found:
        there = sorted({type(m).__name__ for m in model.modules() if is_norm(m)})
        listed = ", ".join(there) or "no norm at all"
        raise ValueError(f"swap_norms: old={old!r} matches nothing in {type(model).__name__}; it has: {listed}")
    made: dict[int, tuple[nn.Module, SwappedNorm]] = {}  # by id: a shared norm stays shared
    for name, module in found:  # check and build everything before changing anything
        _check_only_normalises(name, module, types)
        if id(module) not in made:
            made[id(module)] = _build(name, module, factory, keep)
    for name, module in found:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[id(module)][0])
    return [row for _, row in made.values()]


def _types_of(old: str | type[nn.Module] | tuple[type[nn.Module], ...]) -> tuple[type[nn.Module], ...]:
    if not isinstance(old, str):
        return old if isinstance(old, tuple) else (old,)
    types = {name: norm.types for name, norm in NORMS.items() if norm.types}
    if old not in types:
        reason = "leaves nothing to replace" if old in NORMS else "is unknown"
        raise ValueError(f"swap_norms: old={old!r} {reason}; choose one of: {', '.join(sorted(types))}, or a class")
    return frozen_batch_norm_types() if old == "frozen_batch_norm" else types[old]


def _check_only_normalises(name: str, module: nn.Module, types: tuple[type[nn.Module], ...]) -> None:
    if not name:
        raise ValueError("swap_norms: the model is itself a norm; it has no parent to replace it in")
    inherited = type(module).forward in {getattr(base, "forward", None) for base in (*types, _BatchNorm)}
    ours = type(module).__module__.startswith(("ssdnorm.", "torch.", "torchvision."))
    if type(module) not in types and not inherited and not ours:
        kind = type(module).__name__
        raise ValueError(f"swap_norms: {name} is a {kind}, which may do more than normalise; name it: old={kind}")


def _build(name: str, old: nn.Module, factory: NormFactory, keep: Sequence[str]) -> tuple[nn.Module, SwappedNorm]:
    state = {key: value for key, value in old.state_dict().items() if value is not None}
    channels = _channels(name, old, state)
    new = factory(channels).train(old.training)
    like = state.get("weight", state.get("running_mean"))
    if like is not None and like.is_floating_point():
        new = new.to(like.device, like.dtype)
    batch_norms: tuple[type[nn.Module], ...] = (_BatchNorm, *frozen_batch_norm_types())
    both_batch = isinstance(old, batch_norms) and isinstance(new, batch_norms)
    same_unit = isinstance(old, L2Norm) == isinstance(new, L2Norm)
    target = new.state_dict()
    kept = [
        key
        for key, value in state.items()
        if same_unit
        and (both_batch or key in ("weight", "bias"))
        and key in target
        and target[key].shape == value.shape
    ]
    new.load_state_dict({key: state[key] for key in kept}, strict=False)
    for attribute in keep if both_batch else ():
        if hasattr(old, attribute) and hasattr(new, attribute):
            setattr(new, attribute, getattr(old, attribute))
            kept.append(attribute)
    dropped = tuple(key for key in state if key not in kept)
    return new, SwappedNorm(name, type(old).__name__, type(new).__name__, channels, tuple(kept), dropped)


def _channels(name: str, norm: nn.Module, state: Mapping[str, Tensor]) -> int:
    for attribute in ("num_features", "num_channels", "normalized_shape"):
        value = getattr(norm, attribute, None)
        if isinstance(value, int):
            return value
        if isinstance(value, tuple | list):
            return int(value[-1])
    if "weight" in state:
        return state["weight"].shape[0]
    raise ValueError(f"swap_norms: cannot tell the channels of {name} ({type(norm).__name__})")
