"""Sections of keys and values checked by pydantic, and messages of one line for what is wrong with them."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from ssdnorm.messages import did_you_mean, shown, unknown_name
from ssdnorm.norm_specs import is_custom, parse_norm_spec

Model = TypeVar("Model", bound=BaseModel)
_MOST_ERRORS = 100  # looked at for the message
_LONGEST_MESSAGE = 800
_LONGEST_KEY = 80


class Section(BaseModel):
    """Keys and values; unknown keys, values of another type, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _finite_options(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: must be finite; got {value}")
    return options


def _norm_spec(spec: Any) -> Any:
    parse_norm_spec(spec)
    return spec


NormSpec = Annotated[str | Annotated[dict[str, Any], AfterValidator(_finite_options)], AfterValidator(_norm_spec)]
LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")


def _logger_spec(spec: Any) -> Any:
    kind = spec.get("kind") if isinstance(spec, Mapping) else spec
    if kind not in LOGGERS and not (isinstance(kind, str) and is_custom(kind)):
        raise ValueError(unknown_name("logger", kind, (*LOGGERS, "package.module:Class")))
    return spec


BoxNumber = Annotated[float, Field(gt=0, le=1e6)]  # of default boxes: pixels, or a ratio
LoggerSpec = Annotated[str | Annotated[dict[str, Any], AfterValidator(_finite_options)], AfterValidator(_logger_spec)]

_Count = Annotated[int, Field(ge=1, lt=2**31)]


class PostProcessConfig(Section):
    """From raw output to detections: a section of the config, and part of what checkpoints say."""

    score_threshold: float = Field(default=0.01, ge=0, lt=1, description="boxes below it are dropped before NMS")
    nms_threshold: float = Field(
        default=0.45, ge=0, le=1, description="IoU above which the lower-scored box is suppressed"
    )
    top_k: _Count = Field(default=400, description="boxes per class that enter NMS")
    max_detections: _Count = Field(default=200, description="detections per image")


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


def validate(model: type[Model], content: Mapping[str, Any] | str, origin: Callable[[str], str]) -> Model:
    """Validate a mapping, or JSON text; the first mistake becomes a ``ValueError`` of one line.

    Args:
        origin: dotted key → where it was given, for the message.
    """
    try:
        if not isinstance(content, str):
            return model.model_validate(content)
        return model.model_validate_json(content)
    except UnicodeEncodeError:
        raise ValueError(f"{origin('')}: text with invalid characters (lone surrogates)") from None
    except ValidationError as error:
        if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid":
            raise ValueError(f"{origin('')}: not JSON: {error.errors()[0]['ctx']['error']}") from None
        whole = from_json(content) if isinstance(content, str) else content
        key, message = _explain(error, model, whole)
        raise ValueError(f"{origin(key)}: {key and key + ': '}{message[:_LONGEST_MESSAGE]}") from None


def _explain(error: ValidationError, model: type[BaseModel], content: Mapping[str, Any]) -> tuple[str, str]:
    """The dotted key of the first mistake, unknown keys before others, and what is wrong with it."""
    errors = error.errors(include_url=False)[:_MOST_ERRORS]
    errors.sort(key=lambda each: each["type"] != "extra_forbidden")
    location, context = errors[0]["loc"], errors[0].get("ctx", {})
    key = _dotted(location, content)
    if inside := [name for each in errors if (name := _dotted(each["loc"], content)).startswith(f"{key}.")]:
        key = inside[0]  # of a union, the member that the input resembles most
    alike = [each for each in errors if _dotted(each["loc"], content) == key]  # one per member of a union
    if errors[0]["type"] == "extra_forbidden":
        return key, _unknown_key(_dotted(location[:-1], content), location, model)
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
        expected = re.sub(r"a valid dictionary( or (instance|object)[^,]*)?|an object", "a mapping", " or ".join(texts))
    hint = did_you_mean(got, re.findall(r"'([^']+)'", expected))
    expected = f"must {expected}" if expected.startswith("have") else f"must be {expected}"
    return key, f"{expected}; got {'null' if got is None else shown(got)}{hint and '.' + hint}"


def _dotted(location: tuple[str | int, ...], content: Any) -> str:
    """A location in the input as a dotted key, without pydantic's names for the members of unions."""
    parts = []
    for part in location:
        in_list = isinstance(content, list) and isinstance(part, int) and part < len(content)
        if in_list or (isinstance(content, Mapping) and part in content):
            content = content[part]
            key = str(part)
            parts.append(key if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]}…")
    return ".".join(parts)


def _unknown_key(parent: str, location: tuple[str | int, ...], model: type[BaseModel]) -> str:
    kinds, of_format = sections(model)[parent], ""
    if len(kinds) > 1:  # its format comes before the key in the location
        kinds = tuple(kind for kind in kinds if location[-2] in typing.get_args(kind.model_fields["format"].annotation))
        of_format = f" of format {location[-2]}"
    names = sorted(name for kind in kinds for name in kind.model_fields)
    hint = did_you_mean(location[-1], names, prefix=f"{parent}." if parent else "")
    return f"unknown key{of_format}; choose one of: {', '.join(names)}.{hint}"
