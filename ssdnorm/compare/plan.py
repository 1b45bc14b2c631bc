"""This file is about the plan of a comparison: its config file, and the runs that follow from it."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdnorm.build import check_model
from ssdnorm.config import Config
from ssdnorm.config_file import config_from_mapping, config_to_mapping, config_with_overrides, differing_keys, read_yaml
from ssdnorm.messages import did_you_mean
from ssdnorm.metrics.bootstrap import METRICS as BOOTSTRAPPED

_KEYS = ("title", "vary", "baseline", "seeds", "metric", "target_ap50", "arms", "learning_rates", "base")
_NEVER_VARIED = ("training.seed", "runtime", "data")


@dataclass(frozen=True)
class Arm:
    """One normalisation choice: the base config with some keys changed, and the learning rates to try."""

    name: str
    changes: dict[str, Any]
    config: Config
    lrs: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """One run to be made: an arm with a seed and a learning rate.

    Attributes:
        folder: of the run, relative to the comparison's.
    """

    arm: str
    seed: int
    lr: float
    folder: str
    config: Config


@dataclass(frozen=True)
class Plan:
    """A comparison as its file describes it, checked.

    Attributes:
        content: the file's own content, with the base config complete.
    """

    title: str
    vary: tuple[str, ...]
    baseline: str
    seeds: tuple[int, ...]
    metric: str
    target_ap50: float
    arms: tuple[Arm, ...]
    base: Config
    content: dict[str, Any]

    def first_jobs(self) -> list[Job]:
        """The runs to begin with: all of them, or the first seed's alone where learning rates are yet to be chosen."""
        seeds = self.seeds[:1] if any(len(arm.lrs) > 1 for arm in self.arms) else self.seeds
        return [make_job(arm, seed, lr) for seed in seeds for arm in self.arms for lr in arm.lrs]

    def jobs(self, lrs: Mapping[str, float]) -> list[Job]:
        """All runs, seed by seed: the first seed with every learning rate, the others with the chosen one.

        Args:
            lrs: arm → chosen learning rate.
        """
        others = [make_job(arm, seed, lrs[arm.name]) for seed in self.seeds[1:] for arm in self.arms]
        first = [make_job(arm, self.seeds[0], lr) for arm in self.arms for lr in arm.lrs]
        return first + others

    def possible_jobs(self) -> list[Job]:
        """Every arm with every seed and learning rate, whichever will be chosen."""
        return [make_job(arm, seed, lr) for seed in self.seeds for arm in self.arms for lr in arm.lrs]


def make_job(arm: Arm, seed: int, lr: float) -> Job:
    """The run of an arm with a seed and a learning rate."""
    content = config_to_mapping(arm.config)
    content["training"]["seed"] = seed
    content["optimizer"]["lr"] = lr
    config = config_from_mapping(content, where=f"arms.{arm.name}")
    return Job(arm.name, seed, lr, f"runs/{arm.name}/lr{lr!r}_seed{seed}", config)


def read_plan(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """The comparison that a file describes.

    Its keys: ``title``; ``base``, a complete training config; ``vary``, the config keys (or rooms) that arms may
    change; ``arms``, name → dotted key → value; ``baseline``, one of them; ``seeds``; ``metric`` that the answer is
    about and that chooses learning rates; ``learning_rates``, arm → rates to try with the first seed, the one with the
    highest metric on ``base.data.validation`` being taken for the others (the smaller if equal); ``target_ap50``, to
    which the time is taken.

    Args:
        overrides: words such as ``["--base.training.max_steps", "100"]``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for an unknown key, an arm that changes a key outside ``vary``, a model that cannot be built, or
            rates without validation images; the message starts with the file and the key.
    """
    content = read_yaml(Path(path))
    where = str(path)
    _check_form(content, where)
    base = _base(content["base"], overrides, where)
    vary = tuple(content["vary"])
    _check_vary(vary, base, where)
    rates = {name: _rates(name, given, where) for name, given in (content["learning_rates"] or {}).items()}
    for name in rates:
        _choose(name, content["arms"], f"{where}: learning_rates")
    if any(len(lrs) > 1 for lrs in rates.values()) and base.data.validation is None:
        raise ValueError(
            f"{where}: learning_rates: rates are chosen on validation images; base.data.validation is null"
        )
    arms = tuple(
        _arm(name, {} if changes is None else changes, base, vary, rates, where)
        for name, changes in content["arms"].items()
    )
    _choose(content["baseline"], content["arms"], f"{where}: baseline")
    return Plan(
        title=content["title"],
        vary=vary,
        baseline=content["baseline"],
        seeds=tuple(content["seeds"]),
        metric=content["metric"],
        target_ap50=float(content["target_ap50"]),
        arms=arms,
        base=base,
        content={**content, "base": config_to_mapping(base)},
    )


def _check_form(content: Any, where: str) -> None:
    """The keys that must be there, and the types of their values."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: expected keys and values: {', '.join(_KEYS)}")
    for key in content:
        _choose(key, _KEYS, f"{where}", what="key")
    if missing := [key for key in _KEYS if key not in content]:
        raise ValueError(f"{where}: {missing[0]}: is missing; a comparison has {', '.join(_KEYS)}")
    for key, kind in {"title": str, "vary": list, "seeds": list, "arms": dict, "base": dict}.items():
        if not isinstance(content[key], kind) or not content[key]:
            raise ValueError(f"{where}: {key}: expected a {kind.__name__}, not empty; got {content[key]!r}")
    seeds = content["seeds"]
    if not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"{where}: seeds: expected different whole numbers, 0 or more; got {seeds}")
    _choose(content["metric"], BOOTSTRAPPED, f"{where}: metric")  # the others have no interval over test images
    for key, names in (("vary", content["vary"]), ("arms", content["arms"])):
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise ValueError(f"{where}: {key}: expected names; got {wrong[0]!r}, which YAML reads as no text")
    target = content["target_ap50"]
    if not isinstance(target, int | float) or not 0 < target < 1:
        raise ValueError(f"{where}: target_ap50: must lie between 0 and 1; got {target!r}")
    if not isinstance(content["learning_rates"], dict | None):
        raise ValueError(f"{where}: learning_rates: expected arm: [rates], or {{}}; got {content['learning_rates']!r}")
    if len(content["arms"]) < 2:
        raise ValueError(f"{where}: arms: a comparison needs two at least; got {', '.join(content['arms'])}")


def _base(content: Mapping[str, Any], overrides: Sequence[str], where: str) -> Config:
    words = list(overrides)
    for place, word in enumerate(words):
        if word.startswith("--") and not word.startswith("--base."):
            raise ValueError(f"command line: {word}: unknown option; a key of the base config is --base.key value")
        if word.partition("=")[0] == "--base.training.seed":
            raise ValueError(
                "command line: --base.training.seed: the comparison's seeds take its place; change the file's seeds"
            )
        words[place] = word.replace("--base.", "--", 1) if word.startswith("--base.") else word
    return config_with_overrides(content, words, where=f"{where}: base")


def _check_vary(vary: Sequence[Any], base: Config, where: str) -> None:
    for key in vary:
        if any(_below(key, never) or _below(never, key) for never in _NEVER_VARIED):
            raise ValueError(f"{where}: vary: {key}: arms share their seeds, data and runtime")
        _get(config_to_mapping(base), str(key), f"{where}: vary")


def _rates(name: str, given: Any, where: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(rate) for rate in given) if isinstance(given, list) else ()
    except (TypeError, ValueError):
        rates = ()
    if not rates or any(isinstance(rate, bool) for rate in given) or len(set(rates)) < len(rates) or min(rates) <= 0:
        raise ValueError(f"{where}: learning_rates.{name}: expected different rates above 0; got {given!r}")
    return rates


def _arm(
    name: str, changes: Any, base: Config, vary: Sequence[str], rates: Mapping[str, tuple[float, ...]], where: str
) -> Arm:
    """One arm, checked: it differs from the base in keys of ``vary`` alone, and its model can be built."""
    here = f"{where}: arms.{name}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise ValueError(f"{here}: a name has letters, digits, _ . + and -, since it is a folder's name, too")
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise ValueError(f"{here}: expected dotted keys and their values; got {changes!r}")
    complete = config_to_mapping(base)
    for key, value in changes.items():
        if not any(_below(key, allowed) for allowed in vary):
            raise ValueError(f"{here}: {key}: arms may change {', '.join(vary)} alone; declare the key under vary")
        if not re.fullmatch(r"norm\.taps\.\w+", key):  # taps that the base does not name have no norm there
            _get(complete, key, here)
        _set(complete, key, value)
    config = config_from_mapping(complete, where=here)
    outside = [
        key
        for key in differing_keys(config_to_mapping(base), config_to_mapping(config))
        if not any(_below(key, allowed) for allowed in vary)
    ]
    if outside:
        raise ValueError(f"{here}: {outside[0]}: differs from the base; arms may change {', '.join(vary)} alone")
    if name in rates and config.optimizer.lr != base.optimizer.lr:
        raise ValueError(f"{here}: optimizer.lr: the arm has learning_rates, too; give one of the two")
    try:
        check_model(config)
    except ValueError as error:
        raise ValueError(f"{here}: {error}") from error
    return Arm(name, dict(changes), config, rates.get(name, (config.optimizer.lr,)))


def _below(key: str, room: str) -> bool:
    return key == room or key.startswith(f"{room}.")


def _choose(name: Any, allowed: Any, where: str, *, what: str = "name") -> None:
    if name not in list(allowed):
        hint = did_you_mean(name, [str(a) for a in allowed])
        raise ValueError(f"{where}: unknown {what} {name!r}; choose one of: {', '.join(map(str, allowed))}.{hint}")


def _get(content: Any, key: str, where: str) -> Any:
    """The value at a dotted key."""
    path: list[str] = []
    for part in key.split("."):
        if not isinstance(content, Mapping) or part not in content:
            choices = content if isinstance(content, Mapping) else {}
            hint = did_you_mean(part, choices, prefix="".join(f"{room}." for room in path))
            raise ValueError(f"{where}: {key}: unknown key; choose one of: {', '.join(choices) or 'none'}.{hint}")
        content = content[part]
        path.append(part)
    return content


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    """Put a value at a dotted key, in place; whole norm specs and maps of taps are replaced."""
    *rooms, last = key.split(".")
    for room in rooms:
        content = content[room]
    content[last] = copy.deepcopy(value)
