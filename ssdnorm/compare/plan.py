"""The plan of a comparison: its config file, and the runs that follow from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat

from ssdnorm.build import check_model
from ssdnorm.config import Config
from ssdnorm.config_file import (
    config_to_mapping,
    differing_keys,
    find_config,
    flatten,
    merge_config,
    parse_overrides,
    read_yaml,
)
from ssdnorm.messages import did_you_mean
from ssdnorm.validation import Section, sections, validate

_NEVER_VARIED = ("training.seed", "runtime", "data")


def _different(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError(f"must be different values; got {values}")
    return values


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise ValueError("a name has letters, digits, _ . + and -, since it names a folder")
    return name


class Comparison(Section):
    """The file of a comparison."""

    title: str = Field(min_length=1, description="of the report")
    base: str | dict[str, Any] = Field(description="a recipe's name or file, or a complete config")
    changes: dict[str, Any] = Field(default={}, description="keys of the base that all arms change, dotted or nested")
    vary: list[str] = Field(min_length=1, description="config keys or sections that arms may change")
    baseline: str = Field(description="the arm that the others are compared with")
    seeds: Annotated[list[NonNegativeInt], AfterValidator(_different)] = Field(min_length=1, description="one run each")
    metric: Literal["AP", "AP50", "AP75"] = Field(
        description="what the answer is about; learning rates are chosen by it"
    )
    target_ap50: float = Field(gt=0, lt=1, description="the time until this AP50 is a column of the table")
    learning_rates: (
        dict[str, Annotated[list[PositiveFloat], Field(min_length=1), AfterValidator(_different)]] | None
    ) = Field(
        default=None, description="arm → rates to try with the first seed; the best on base.data.validation is taken"
    )
    arms: dict[Annotated[str, AfterValidator(_folder_name)], dict[str, Any] | None] = Field(
        min_length=2, description="name → keys of the base that the arm changes"
    )


@dataclass(frozen=True)
class Arm:
    """The base config with some keys changed, and the learning rates to try."""

    name: str
    changes: dict[str, Any]
    config: Config
    lrs: tuple[float, ...]


@dataclass(frozen=True)
class Job:
    """One run to be made: an arm with a seed and a learning rate."""

    arm: str
    seed: int
    lr: float
    folder: str  # of the run, relative to the comparison's
    config: Config


@dataclass(frozen=True)
class Plan:
    """A comparison as its file describes it, checked."""

    file: Comparison
    base: Config
    arms: tuple[Arm, ...]
    content: dict[str, Any]  # of the file, with the base config complete

    def possible_jobs(self) -> list[Job]:
        """Every arm with every seed and learning rate, seed by seed."""
        return [make_job(arm, seed, lr) for seed in self.file.seeds for arm in self.arms for lr in arm.lrs]

    def first_jobs(self) -> list[Job]:
        """The runs to begin with: all of them, or the first seed's alone where learning rates are yet to be chosen."""
        choosing = any(len(arm.lrs) > 1 for arm in self.arms)
        return [job for job in self.possible_jobs() if not choosing or job.seed == self.file.seeds[0]]

    def jobs(self, lrs: Mapping[str, float]) -> list[Job]:
        """All runs: the first seed with every learning rate, the others with the arm's chosen one."""
        return [job for job in self.possible_jobs() if job.seed == self.file.seeds[0] or job.lr == lrs[job.arm]]


def make_job(arm: Arm, seed: int, lr: float) -> Job:
    """The run of an arm with a seed and a learning rate."""
    training = arm.config.training.model_copy(update={"seed": seed})
    optimizer = arm.config.optimizer.model_copy(update={"lr": lr})
    config = arm.config.model_copy(update={"training": training, "optimizer": optimizer})
    return Job(arm.name, seed, lr, f"runs/{arm.name}/lr{lr!r}_seed{seed}", config)


def read_plan(path: str | Path, overrides: Sequence[str] = ()) -> Plan:
    """Read the comparison that a file describes.

    Args:
        path: a YAML file with the keys of :class:`Comparison`, or the name of a shipped comparison.
        overrides: command-line arguments such as ``["--base.training.max_steps", "100"]``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown key, an arm that changes a key outside ``vary``, a model that cannot be built, or rates
            without validation images; begins with the file and the key.
    """
    where = str(path)
    content = read_yaml(find_config(path, "comparison"))
    file = validate(Comparison, content, lambda _: where)
    base = merge_config(
        _base(file.base, f"{where}: base"),
        (f"{where}: changes", file.changes),
        ("command line", _base_overrides(overrides)),
    )
    for key in file.vary:
        _check_varied(key, base, where)
    rates = file.learning_rates or {}
    for key, name in [("baseline", file.baseline), *(("learning_rates", name) for name in rates)]:
        if name not in file.arms:
            hint = did_you_mean(name, file.arms)
            raise ValueError(f"{where}: {key}: unknown arm {name!r}; choose one of: {', '.join(file.arms)}.{hint}")
    if any(len(lrs) > 1 for lrs in rates.values()) and base.data.validation is None:
        raise ValueError(
            f"{where}: learning_rates: rates are chosen on validation images; base.data.validation is null"
        )
    arms = tuple(_arm(name, changes or {}, base, file, where) for name, changes in file.arms.items())
    complete = {"base": config_to_mapping(base), "arms": {arm.name: arm.changes for arm in arms}}
    content = {key: complete.get(key, value) for key, value in content.items() if key != "changes"}
    return Plan(file, base, arms, content)


def _base(base: str | dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    if isinstance(base, dict):
        return where, base
    try:
        return base, read_yaml(find_config(base))
    except FileNotFoundError as error:
        raise ValueError(f"{where}: {error}") from None


def _base_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    for argument in arguments:
        if argument.startswith("--") and not argument.startswith("--base."):
            raise ValueError(f"command line: {argument}: unknown option; a key of the base config is --base.key value")
    changes = parse_overrides([re.sub(r"^--base\.", "--", argument) for argument in arguments])
    if "training.seed" in changes:
        raise ValueError("command line: --base.training.seed: change the seeds of the comparison's file instead")
    return changes


def _check_varied(key: str, base: Config, where: str) -> None:
    if any(_below(key, never) or _below(never, key) for never in _NEVER_VARIED):
        raise ValueError(f"{where}: vary: {key}: arms share their seeds, data and runtime")
    known = [*sections(Config), *flatten(config_to_mapping(base), where=where)]
    if not any(key == name or (name not in sections(Config) and _below(key, name)) for name in known):
        hint = did_you_mean(key, known)
        raise ValueError(f"{where}: vary: {key}: unknown key; choose one of: {', '.join(filter(None, known))}.{hint}")


def _arm(name: str, changes: Mapping[str, Any], base: Config, file: Comparison, where: str) -> Arm:
    here = f"{where}: arms.{name}"
    changes = flatten(changes, where=here)
    complete = config_to_mapping(base)
    config = merge_config((where, complete), (here, changes))
    differing = differing_keys(complete, config_to_mapping(config))
    for key in (*changes, *differing):
        if not any(_below(key, allowed) for allowed in file.vary):
            raise ValueError(f"{here}: {key}: arms may change {', '.join(file.vary)} only; declare the key under vary")
    rates = (file.learning_rates or {}).get(name)
    if rates and "optimizer.lr" in differing:
        raise ValueError(f"{here}: optimizer.lr: the arm has learning_rates, too; give one of the two")
    try:
        check_model(config)
    except ValueError as error:
        raise ValueError(f"{here}: {error}") from error
    return Arm(name, changes, config, tuple(rates or [config.optimizer.lr]))


def _below(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")
