"""This file is about config files: YAML and ``--key value`` words in, a checked config out, and back."""

from __future__ import annotations

import copy
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from ssdnorm.config import Config, OptimizerConfig, check_values
from ssdnorm.messages import did_you_mean


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A config file, with ``--key value`` overrides on top, checked.

    Args:
        path: YAML; every key that it leaves out keeps its default.
        overrides: words of a command line, such as ``["--norm.backbone", "batch_norm"]``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown key (with the nearest guess), a value of the wrong type, or one that is not allowed;
            the message starts with the file and the key.
    """
    return config_with_overrides(read_yaml(Path(path)) or {}, overrides, where=str(path))


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no YAML, or names a key twice, of which YAML would take the last.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config file")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {_one_line(error)}") from error


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that a mapping has already."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if doubled := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {doubled!r} stands there twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


def config_with_overrides(content: Mapping[str, Any], overrides: Sequence[str], *, where: str) -> Config:
    """A config out of nested mappings with ``--key value`` overrides on top, checked; see :func:`read_config`."""
    changes = parse_overrides(overrides)
    config = config_from_mapping(content, where=where, complete=not changes)
    if changes:
        changed = put({}, changes).get("optimizer", {})
        preset = (content.get("optimizer") or {}).get("preset")
        if preset and not changed.keys() & {"preset", "norms", "biases"}:
            changed["preset"] = preset  # of the weight decay that is new
        mapping = put(config_to_mapping(config), changes)
        if changed.get("preset") is not None:
            decay = config.optimizer.weight_decay
            mapping["optimizer"] |= write_out_preset({"optimizer": changed}, weight_decay=decay, where="command line")[
                "optimizer"
            ]
        config = config_from_mapping(mapping, where=f"{where} and the command line")
    return config


def config_from_mapping(content: Mapping[str, Any], *, where: str, complete: bool = True) -> Config:
    """A config out of nested mappings, checked; see :func:`read_config`.

    Args:
        where: what messages start with.
        complete: check what keys mean together, too; not while some are still to be overridden.
    """
    _check_keys(content, Config, where)
    content = write_out_preset(content, weight_decay=OptimizerConfig().weight_decay, where=where)
    parser = _parser()
    try:
        parsed = parser.parse_object(dict(content))
        config = Config(**vars(parser.instantiate(parsed)))
    except Exception as error:  # jsonargparse raises its own, argparse's and Python's
        raise ValueError(f"{where}: {_one_line(error)}") from error
    config.norm.taps = _plain(config.norm.taps)
    if complete:
        check_values(config, where)
    return config


@cache
def _parser() -> ArgumentParser:
    """jsonargparse's reader of the dataclasses; made once, since it reads their docstrings."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config, as_group=False)
    return parser


def config_to_mapping(config: Config) -> dict[str, Any]:
    """Nested plain mappings, complete; the inverse of :func:`config_from_mapping`."""
    return dataclasses.asdict(config)


def config_to_yaml(config: Config) -> str:
    """The complete config as a YAML file."""
    return yaml.safe_dump(config_to_mapping(config), sort_keys=False, default_flow_style=None, width=120)


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """``--a.b value`` or ``--a.b=value`` words as dotted key → value, read as YAML, in their order.

    A mapping that is given for a section changes the keys that it names; a map of taps or a norm is taken whole.

    Raises:
        ValueError: for a word that is no option, a missing value, or an unknown key.
    """
    changes: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise ValueError(f"command line: expected --key value; got {word!r}")
        key, has_value, value = word[2:].partition("=")
        if not has_value:
            if not rest:
                raise ValueError(f"command line: --{key}: a value is missing")
            value = rest.pop(0)
        try:
            given: Any = _number(yaml.safe_load(value) if value else None)
        except yaml.YAMLError as error:
            raise ValueError(f"command line: --{key}: not readable as YAML: {_one_line(error)}") from error
        _check_keys(put({}, {key: given}), Config, "command line")
        for place, change in _by_key(key, given):
            for earlier in [name for name in changes if name == place or name.startswith(f"{place}.")]:
                del changes[earlier]  # the last word counts
            changes[place] = change
    return changes


def put(content: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Put values at dotted keys of nested mappings, in place; what is missing on the way there is made."""
    for key, value in changes.items():
        *rooms, last = key.split(".")
        room = content
        for name in rooms:
            if not isinstance(room.get(name), dict):
                room[name] = {}
            room = room[name]
        room[last] = copy.deepcopy(value)
    return content


def write_out_preset(content: Mapping[str, Any], *, weight_decay: float, where: str) -> dict[str, Any]:
    """The same mapping with ``optimizer.preset`` replaced by the values of norms and biases that it stands for.

    Args:
        weight_decay: the general one, where the mapping does not say it.

    Raises:
        ValueError: for an unknown preset, or one beside other values of norms or biases.
    """
    optimizer = content.get("optimizer")
    preset = optimizer.get("preset") if isinstance(optimizer, Mapping) else None
    if preset is None:
        return dict(content)
    assert isinstance(optimizer, Mapping)
    groups = {
        "caffe": {
            "norms": {"lr_factor": 1.0, "weight_decay": optimizer.get("weight_decay", weight_decay)},
            "biases": {"lr_factor": 2.0, "weight_decay": 0.0},
        },
        "modern": {
            "norms": {"lr_factor": 1.0, "weight_decay": 0.0},
            "biases": {"lr_factor": 1.0, "weight_decay": 0.0},
        },
    }
    if preset not in groups:
        raise ValueError(
            f"{where}: optimizer.preset: unknown preset {preset!r}; choose one of: {', '.join(groups)}, null"
        )
    for name, stands_for in groups[preset].items():
        given = optimizer.get(name)
        if given is not None and dict(given) != stands_for:
            raise ValueError(
                f"{where}: optimizer.{name}: {dict(given)} contradicts optimizer.preset {preset}, which stands for "
                f"{stands_for}; leave one of the two out"
            )
    return {**content, "optimizer": {**optimizer, "preset": None, **groups[preset]}}


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys at which two nested mappings differ."""
    keys = []
    for key in dict.fromkeys((*a, *b)):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            keys += differing_keys(left, right, f"{prefix}{key}.")
        elif left != right:
            keys.append(f"{prefix}{key}")
    return keys


def _number(value: Any) -> Any:
    if isinstance(value, str):  # YAML reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _by_key(key: str, value: Any) -> list[tuple[str, Any]]:
    """A value at a dotted key; that of a section key by key."""
    kind: type | None = Config
    for name in key.split("."):
        kind = _section(typing.get_type_hints(kind).get(name)) if kind is not None else None
    if kind is None or not isinstance(value, Mapping):
        return [(key, value)]
    return [leaf for name, inner in value.items() for leaf in _by_key(f"{key}.{name}", inner)]


def _section(annotation: Any) -> type | None:
    """The dataclass that an annotation allows, if any."""
    kinds = (annotation, *typing.get_args(annotation))
    return next((kind for kind in kinds if dataclasses.is_dataclass(kind) and isinstance(kind, type)), None)


def _check_keys(content: Any, kind: type, where: str, prefix: str = "") -> None:
    """Refuse keys that the dataclass lacks, at any depth."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: {prefix.rstrip('.') or 'the file'}: expected keys and values; got {content!r}")
    known = typing.get_type_hints(kind)
    for key, value in content.items():
        if key not in known:
            hint = did_you_mean(key, known, prefix=prefix)
            raise ValueError(f"{where}: {prefix}{key}: unknown key; choose one of: {', '.join(sorted(known))}.{hint}")
        if value is None and known[key] is not Any and types.NoneType not in typing.get_args(known[key]):
            raise ValueError(f"{where}: {prefix}{key}: a value is needed; got null")
        inner = _section(known[key])
        if inner is not None and not (value is None and types.NoneType in typing.get_args(known[key])):
            _check_keys(value, inner, where, f"{prefix}{key}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace | types.SimpleNamespace):
        value = vars(value)
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
