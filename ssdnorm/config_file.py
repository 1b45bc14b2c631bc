"""Read configs: YAML files found by path or name, ``--key value`` overrides, and messages for what is wrong."""

from __future__ import annotations

import copy
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from ssdnorm.config import Config, NormConfig, write_out_preset
from ssdnorm.messages import did_you_mean

SHIPPED = next(
    folder for folder in (Path(__file__).with_name("configs"), Path(__file__).parents[1] / "configs") if folder.is_dir()
)  # in an installed package, and in a checkout
Model = TypeVar("Model", bound=BaseModel)


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config, with ``--key value`` overrides on top.

    Args:
        path: a YAML file, or the name of a shipped recipe; every key that it leaves out keeps its default.
        overrides: command-line arguments, such as ``["--norm.backbone", "batch_norm"]``.

    Raises:
        FileNotFoundError: no such file or recipe.
        ValueError: an unknown key or a value that is not allowed; begins with the file, or *command line*, and the key.
    """
    return merge_config((str(path), read_yaml(find_config(path)) or {}), ("command line", parse_overrides(overrides)))


def find_config(path: str | Path, kind: str = "recipe") -> Path:
    """The file at a path, or the shipped recipe, comparison (``compare_*``) or norm preset of that name.

    Raises:
        FileNotFoundError: neither exists; lists the shipped ones.
    """
    path = Path(path)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) != 1:
        raise FileNotFoundError(f"{path}: no such config file")
    folder = SHIPPED / "norms" if kind == "norm preset" else SHIPPED
    files = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    names = [name for name in files if (kind == "comparison") == name.startswith("compare_")]
    if str(path) not in names:
        shipped = f"{', '.join(names)}.{did_you_mean(path, names)}"
        raise FileNotFoundError(f"{path}: no such config file or {kind}; the shipped ones are: {shipped}")
    return files[str(path)]


def read_yaml(path: Path) -> Any:
    """Read a YAML file; ``ValueError`` if it is damaged, or has a key twice."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {_one_line(error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that reads 1e-3 as a number and refuses a key that a mapping has already."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if repeated := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {repeated!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


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
            raise ValueError(f"{where}: expected keys and values; got {content!r}")
        changes = flatten(content, where=where)
        _replace_preset(merged.get("optimizer"), changes, where)
        _replace_length(merged, changes)
        put(merged, changes)
        given |= dict.fromkeys(changes, where)

    def origin(key: str) -> str:
        inside = [given[name] for name in given if f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.")]
        return inside[-1] if inside else layers[0][0]

    return validate(Config, merged, origin)


def config_from_mapping(content: Mapping[str, Any], *, where: str) -> Config:
    """Validate nested mappings as a config."""
    return merge_config((where, content))


def config_to_mapping(config: Config) -> dict[str, Any]:
    """The complete config as nested mappings; the inverse of :func:`config_from_mapping`."""
    return config.model_dump()


def config_to_yaml(config: Config) -> str:
    """The complete config as a YAML file."""
    return yaml.safe_dump(config_to_mapping(config), sort_keys=False, default_flow_style=None, width=120)


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse ``--a.b value`` or ``--a.b=value`` to dotted key → YAML value; of a key given twice the last counts."""
    changes: dict[str, Any] = {}
    rest = iter(arguments)
    for argument in rest:
        key, has_value, text = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key:
            raise ValueError(f"command line: expected --key value; got {argument!r}")
        value = text if has_value else next(rest, None)
        if value is None:
            raise ValueError(f"command line: --{key}: a value is missing")
        try:
            new = flatten({key: yaml.load(value, _Loader)}, where="command line")
        except yaml.YAMLError as error:
            raise ValueError(f"command line: --{key}: not readable as YAML: {_one_line(error)}") from error
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


def _replace_preset(optimizer: Any, changes: Mapping[str, Any], where: str) -> None:
    """Let new optimizer keys win over those of earlier layers that they contradict."""
    if not isinstance(optimizer, dict):
        return
    if changes.get("optimizer.preset") is not None:
        for name in ("norms", "biases"):
            optimizer.pop(name, None)
    elif any(key.startswith(("optimizer.preset", "optimizer.norms", "optimizer.biases")) for key in changes):
        try:
            optimizer.update(write_out_preset(optimizer))
        except ValueError as error:
            raise ValueError(f"{where}: optimizer: {error}") from error


def _replace_length(merged: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Let a new length of the training, in steps or epochs, win over the other kind in earlier layers."""
    for name, other in (("max_steps", "epochs"), ("epochs", "max_steps")):
        if changes.get(f"training.{name}") is not None and isinstance(merged.get("training"), dict):
            merged["training"].pop(other, None)


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


def differences_of_run(written: Mapping[str, Any], config: Config, *, where: str) -> list[str]:
    """Dotted keys at which the config that a run folder holds differs from another, ``runtime`` aside.

    Keys that the written one lacks, since it comes from an earlier version, have their defaults.
    """
    before = config_to_mapping(config_from_mapping(written, where=where))
    return [key for key in differing_keys(before, config_to_mapping(config)) if not key.startswith("runtime.")]


@cache
def sections(model: type[BaseModel], prefix: str = "") -> dict[str, tuple[type[BaseModel], ...]]:
    """Dotted key → models of its value, for every key whose value is a section, and "" for the whole."""
    found: dict[str, tuple[type[BaseModel], ...]] = {prefix.rstrip("."): (model,)}
    for name, field in model.model_fields.items():
        if inner := tuple(_models(field.annotation)):
            for kind in inner:
                found |= sections(kind, f"{prefix}{name}.")
            found[f"{prefix}{name}"] = inner
    return found


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def validate(model: type[Model], content: Mapping[str, Any], origin: Callable[[str], str]) -> Model:
    """Validate a mapping; the first mistake becomes a ``ValueError`` of one line.

    Args:
        origin: dotted key → where it was given, for the message.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        key, message = _explain(error, model, content)
        raise ValueError(f"{origin(key)}: {key and key + ': '}{message}") from None


def _explain(error: ValidationError, model: type[BaseModel], content: Mapping[str, Any]) -> tuple[str, str]:
    """The dotted key of the first mistake, unknown keys before others, and what is wrong with it."""
    errors = sorted(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    location, context = errors[0]["loc"], errors[0].get("ctx", {})
    key = _dotted(location, content)
    if inside := [name for each in errors if (name := _dotted(each["loc"], content)).startswith(f"{key}.")]:
        key = inside[0]  # of a union, the member that the input resembles most
    alike = [each for each in errors if _dotted(each["loc"], content) == key]  # one per member of a union
    if errors[0]["type"] == "extra_forbidden":
        return key, _unknown_key(key, location, model)
    if errors[0]["type"] == "missing":
        return ".".join([*key.split("."), str(location[-1])]).lstrip("."), "is missing"
    for each in alike:
        if each["type"] == "value_error":
            return key, str(each["ctx"]["error"])
    got = alike[0]["input"]
    if errors[0]["type"] == "union_tag_invalid":
        key, got, expected = f"{key}.format", context["tag"], context["expected_tags"]
    else:
        texts = dict.fromkeys(re.sub(r"^\w+ should (be )?| after validation.*", "", each["msg"]) for each in alike)
        expected = re.sub(r"a valid dictionary( or (instance|object)[^,]*)?", "a mapping", " or ".join(texts))
    hint = did_you_mean(got, re.findall(r"'([^']+)'", expected))
    expected = f"must {expected}" if expected.startswith("have") else f"must be {expected}"
    got = shorten("null" if got is None else repr(got), 80, placeholder="…")
    return key, f"{expected}; got {got}{hint and '.' + hint}"


def _dotted(location: tuple[str | int, ...], content: Any) -> str:
    """A location in the input as a dotted key, without pydantic's names for the members of unions."""
    parts = []
    for part in location:
        inside = dict(enumerate(content)) if isinstance(content, list) else content
        if isinstance(inside, Mapping) and part in inside:
            content = inside[part]
            parts.append(str(part))
    return ".".join(parts)


def _unknown_key(key: str, location: tuple[str | int, ...], model: type[BaseModel]) -> str:
    parent, _, name = key.rpartition(".")
    kinds, of_format = sections(model)[parent], ""
    if len(kinds) > 1:  # its format comes before the key in the location
        kinds = tuple(kind for kind in kinds if location[-2] in typing.get_args(kind.model_fields["format"].annotation))
        of_format = f" of format {location[-2]}"
    names = sorted(name for kind in kinds for name in kind.model_fields)
    hint = did_you_mean(name, names, prefix=f"{parent}." if parent else "")
    return f"unknown key{of_format}; choose one of: {', '.join(names)}.{hint}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
