"""Norm specs: the names and options that a norm may be given, checked without building it."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ssdnorm.messages import did_you_mean, shown


@dataclass(frozen=True)
class Option:
    """The values that one option of a norm accepts, and how messages describe them."""

    allowed: str
    accepts: Callable[[Any], bool]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


_POSITIVE = Option("a number > 0", lambda v: _is_number(v) and v > 0)
_NUMBER = Option("a number", _is_number)
_COUNT = Option("a whole number ≥ 1", lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= 1)
_SWITCH = Option("true or false", lambda v: isinstance(v, bool))
_MOMENTUM = Option(
    "a number in (0, 1], the share of the new batch, or null for a plain average",
    lambda v: v is None or (_is_number(v) and 0 < v <= 1),
)
_AFFINE = {"eps": _POSITIVE, "affine": _SWITCH}
_BATCH = {**_AFFINE, "momentum": _MOMENTUM}

NORM_OPTIONS: Mapping[str, Mapping[str, Option]] = MappingProxyType(
    {
        "none": {},
        "l2_norm": {"scale": _NUMBER, "eps": _POSITIVE, "learnable": _SWITCH},
        "batch_norm": _BATCH,
        "sync_batch_norm": _BATCH,
        "frozen_batch_norm": {"eps": _POSITIVE},
        "group_norm": {**_AFFINE, "groups": _COUNT},
        "layer_norm": _AFFINE,
        "rms_norm": _AFFINE,
        "instance_norm": _AFFINE,
    }
)


def is_custom(kind: str) -> bool:
    """Whether a norm is a custom class, ``"package.module:Class"``."""
    return re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", kind) is not None


def import_class(path: str) -> Any:
    """What ``"package.module:Class"`` names; its module is imported, and that module's code runs.

    Raises:
        ValueError: it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"cannot import {path!r} (package.module:Class): {error}") from error


def norm_kind(spec: str | Mapping[str, Any]) -> str:
    """The kind that a valid norm spec names."""
    return spec if isinstance(spec, str) else str(spec["kind"])


def custom_norms(*specs: str | Mapping[str, Any]) -> set[str]:
    """The custom classes among norm specs."""
    return {kind for kind in map(norm_kind, specs) if is_custom(kind)}


def parse_norm_spec(spec: object) -> tuple[str, dict[str, Any]]:
    """The kind and the options of a norm spec; the options of a custom class are not checked here.

    Raises:
        ValueError: an unknown name or option, or a value out of range; the message names the choices.

    Example:
        >>> parse_norm_spec({"kind": "group_norm", "groups": 4})
        ('group_norm', {'groups': 4})
    """
    given: Mapping[Any, Any] = spec if isinstance(spec, Mapping) else {"kind": spec}
    names = ", ".join(sorted(NORM_OPTIONS))
    kind = given.get("kind")
    if not isinstance(kind, str):
        near = " Did you mean 'none'?" if spec is None else ""
        raise ValueError(
            f"expected a norm name or a mapping with 'kind'; got {shown(spec)}; choose one of: {names}.{near}"
        )
    options = {str(name): value for name, value in given.items() if name != "kind"}
    if is_custom(kind):
        return kind, options
    if kind not in NORM_OPTIONS:
        choices = f"choose one of: {names}, 'package.module:Class'.{did_you_mean(kind, NORM_OPTIONS)}"
        raise ValueError(f"unknown norm {shown(kind)}; {choices}")
    check_option_names(kind, options, NORM_OPTIONS[kind])
    for name, value in options.items():
        if not NORM_OPTIONS[kind][name].accepts(value):
            hint = (
                " (YAML reads 1e-5 as text: write 1.0e-5)" if isinstance(value, str) and _reads_as_number(value) else ""
            )
            raise ValueError(f"{kind}: {name}: expected {NORM_OPTIONS[kind][name].allowed}; got {shown(value)}{hint}")
    return kind, options


def check_option_names(kind: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise ``ValueError`` for an option that a norm does not have."""
    known = sorted(known)
    for name in options:
        if name not in known:
            choices = f"choose one of: {', '.join(known)}.{did_you_mean(name, known)}" if known else "it has no options"
            raise ValueError(f"{kind}: unknown option {shown(name)}; {choices}")


def _reads_as_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
