"""Read configs: YAML files found by path or name, ``--key value`` overrides, and messages for what is wrong."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ssdnorm.config import Config, NormConfig
from ssdnorm.messages import did_you_mean, shown
from ssdnorm.validation import sections, validate
from ssdnorm.yaml_files import parse_yaml, read_yaml

SHIPPED = next(
    folder for folder in (Path(__file__).with_name("configs"), Path(__file__).parents[1] / "configs") if folder.is_dir()
)  # in an installed package, and in a checkout

_OF_EVALUATION = (
    *("data.class_names", "data.test", "data.on_bad_annotation", "post_process"),
    *("runtime.devices", "runtime.accelerator", "runtime.num_nodes", "runtime.num_workers"),
    *("training.batch_size", "training.precision"),
)


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config, with ``--key value`` overrides on top.

    Args:
        path: a YAML file, or the name of a shipped recipe; every key that it leaves out keeps its default.
        overrides: command-line arguments, such as ``["--norm.backbone", "batch_norm"]``.

    Raises:
        FileNotFoundError: no such file or recipe.
        ValueError: an unknown key or a value that is not allowed; begins with the file, or *command line*, and the key.
    """
    return merge_config(config_layer(path), ("command line", parse_overrides(overrides)))


def read_evaluation_config(
    base: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, test: Mapping[str, Any] | None = None
) -> Config:
    """Read what a trained model is evaluated with; refuses overrides that have no effect on it.

    Args:
        base: as ``path`` of :func:`read_config`, or the keys themselves.
        test: of ``--annotations``, in place of ``data.test``.
    """
    changes = parse_overrides(overrides)
    allowed = [name for name in _OF_EVALUATION if test is None or name != "data.test"]
    for key in changes:
        if test is not None and f"{key}.".startswith("data.test."):
            raise ValueError(f"--{key}: does not go with --annotations, which takes the place of data.test")
        if not any(f"{key}.".startswith(f"{name}.") for name in allowed):
            raise ValueError(f"--{key}: has no effect on a trained model; choose among: {', '.join(allowed)}")
    if test is not None:
        changes["data.test"] = test
    layer = ("command line", base) if isinstance(base, Mapping) else config_layer(base)
    return merge_config(layer, ("command line", changes))


def config_layer(path: str | Path) -> tuple[str, Any]:
    """A config file as a layer for :func:`merge_config`: where its keys come from, and the keys."""
    return str(path), read_yaml(find_config(path)) or {}


def find_config(path: str | Path, kind: str = "recipe") -> Path:
    """The file at a path, or the shipped recipe, comparison (``compare_*``) or norm preset of that name.

    Raises:
        FileNotFoundError: neither exists; lists the shipped ones.
    """
    path = Path(path)
    if os.path.isfile(path):  # Path.is_file raises for a name that is too long
        return path
    named = str(path)[:500]
    if path.suffix or len(path.parts) != 1:
        raise FileNotFoundError(f"{named}: no such config file")
    folder = SHIPPED / "norms" if kind == "norm preset" else SHIPPED
    files = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    names = [name for name in files if (kind == "comparison") == name.startswith("compare_")]
    if str(path) not in names:
        shipped = f"{', '.join(names)}.{did_you_mean(path, names)}"
        raise FileNotFoundError(f"{named}: no such config file or {kind}; the shipped ones are: {shipped}")
    return files[str(path)]


def merge_config(*layers: tuple[str, Mapping[str, Any]]) -> Config:
    """Validate layers of keys, each on top of those before it.

    Args:
        layers: where the keys come from, for messages, and the keys: nested or dotted. Sections are merged key by key;
            a norm, a map of taps or of dropouts is taken whole. ``norm`` may be the name of a preset.
    """
    merged: dict[str, Any] = {"norm": NormConfig().model_dump()}
    given: dict[str, str] = {}  # key -> where
    for where, content in layers:
        if not isinstance(content, Mapping):
            raise ValueError(f"{where}: expected keys and values; got {shown(content)}")
        changes = flatten(content, where=where)
        if changes.get("optimizer.preset", "") is None:  # a key of earlier versions, null in the configs of their runs
            del changes["optimizer.preset"]
        for name, other in (("max_steps", "epochs"), ("epochs", "max_steps")):  # the other kind of length gives way
            if changes.get(f"training.{name}") is not None and isinstance(merged.get("training"), dict):
                merged["training"].pop(other, None)
        put(merged, changes)
        given |= dict.fromkeys(changes, where)

    def origin(key: str) -> str:
        inside = [given[name] for name in given if f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.")]
        return inside[-1] if inside else layers[0][0]

    return validate(Config, merged, origin)


def config_to_yaml(config: Config) -> str:
    """The complete config as a YAML file, of which :func:`read_config` makes the same config."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, default_flow_style=None, width=120)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse ``--a.b value`` or ``--a.b=value`` to dotted key → YAML value; of a key given twice the last counts."""
    changes: dict[str, Any] = {}
    rest = iter(arguments)
    for argument in rest:
        key, has_value, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise ValueError(f"command line: expected --key value; got {shown(argument)}")
        where = f"command line: --{key[:80]}"
        value = text if has_value else next(rest, None)
        if value is None:
            raise ValueError(f"{where}: a value is missing")
        new = flatten({key: parse_yaml(value, where=where)}, where="command line")
        changes = {name: change for name, change in changes.items() if name not in new} | new
    return changes


def flatten(content: Mapping[str, Any], *, where: str, prefix: str = "") -> dict[str, Any]:
    """Flatten sections to dotted key → value, and look up the name of a norm preset; other mappings stay whole."""
    changes: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        if key == "norm" and isinstance(value, str):
            try:
                value = read_yaml(find_config(value, "norm preset"))
            except FileNotFoundError as error:
                raise ValueError(f"{where}: norm: {error}") from None
        if isinstance(value, Mapping) and key in sections(Config) and (value or not _may_be_null(key)):
            changes |= flatten(value, where=where, prefix=f"{key}.")
        else:
            changes[key] = value
    return changes


def _may_be_null(key: str) -> bool:
    """Whether a section is null by default, so that an empty mapping means its defaults."""
    parent, _, name = key.rpartition(".")
    return any(model.model_fields[name].default is None for model in sections(Config)[parent])


def put(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Put values at dotted keys of nested mappings, in place; makes missing mappings on the way."""
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = content
        for name in parents:
            inner[name] = inner[name] if isinstance(inner.get(name), dict) else {}
            inner = inner[name]
        inner[last] = copy.deepcopy(value)
    return content


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys at which two nested mappings differ; null and a missing key are the same."""
    keys = []
    for key in dict.fromkeys((*a, *b)):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            keys += differing_keys(left, right, f"{prefix}{key}.")
        elif left != right:
            keys.append(f"{prefix}{key}")
    return keys


def differences_of_run(before: Config, config: Config) -> list[str]:
    """Dotted keys at which the config of a run folder differs from another, ``runtime`` aside."""
    differing = differing_keys(before.model_dump(), config.model_dump())
    return [key for key in differing if not key.startswith("runtime.")]
