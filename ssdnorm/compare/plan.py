"""The plan of a comparison: its config file, and the runs that follow from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat

from ssdnorm.build import check_model
from ssdnorm.compare.rules import RuleName
from ssdnorm.config import Config, Fraction, Seed
from ssdnorm.config_file import (
    differing_keys,
    find_config,
    flatten,
    merge_config,
    parse_overrides,
    read_yaml,
)
from ssdnorm.engine.loggers import named
from ssdnorm.messages import did_you_mean, shown, unknown_name
from ssdnorm.settle import settle, settle_precision
from ssdnorm.validation import Section, sections, validate

_NEVER_VARIED = ("training.seed", "runtime", "data")
_MOST_SEEDS = 10_000
_MOST_EXTENSIONS = 4  # of a list of learning rates, to either side together


def _different(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError(f"must be different values; got {values}")
    return values


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise ValueError("a name has letters, digits, _ . + and -, since it names a folder")
    return name


def _rising(looks: list[int]) -> list[int]:
    if looks != sorted(set(looks)):
        raise ValueError(f"must rise; got {looks}")
    return looks


Seeds = Annotated[list[Seed], Field(min_length=1), AfterValidator(_different)]
Rates = Annotated[list[PositiveFloat], Field(min_length=1), AfterValidator(_different)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class Comparison(Section):
    """The file of a comparison."""

    title: str = Field(min_length=1, description="of the report")
    base: str | dict[str, Any] = Field(description="a recipe's name or file, or a complete config")
    changes: dict[str, Any] = Field(default={}, description="keys of the base that all arms change, dotted or nested")
    vary: list[str] = Field(min_length=1, description="config keys or sections that arms may change")
    baseline: str = Field(description="the arm that the others are compared with")
    seeds: Seeds = Field(description="one run each")
    looks: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1), AfterValidator(_rising)] | None = Field(
        default=None, description="numbers of seeds at which the arms are compared, if seeds are to be added later"
    )
    metric: Literal["AP", "AP50", "AP75"] = Field(
        description="what the answer is about; learning rates are chosen by it"
    )
    rule: RuleName = Field(default="guarded_t", description="how differences are judged; see docs/comparison.md")
    margin: Fraction | None = Field(
        default=None, description="differences of the metric within ±margin are equivalent; 0.02 is two points"
    )
    contrasts: dict[str, Annotated[list[Pair], Field(min_length=1, max_length=2)]] = Field(
        default={}, description="name → [[a, b]] for a − b, or [[a, b], [c, d]] for (a − b) − (c − d), of arms"
    )
    target_ap50: float = Field(gt=0, lt=1, description="the time until this AP50 is a column of the table")
    learnt_ap50: Fraction = Field(default=0.05, description="a run that ends below this AP50 has not learnt")
    learning_rates: dict[str, Rates] | None = Field(
        default=None, description="arm → rates to try, as many for each; the best on base.data.validation is taken"
    )
    choosing_seeds: Seeds = Field(default=[1000], description="rates are tried with; not to be among the seeds")
    extend: bool = Field(default=False, description="add rates by the list's factor until the best is not at its edge")
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
    title: str = ""  # of the comparison


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
    base: Config  # with epochs and shares as given, since they become steps by each arm's batch size and length
    arms: tuple[Arm, ...]
    content: dict[str, Any]  # of the file, with the base config complete; read again, it gives the same plan

    @property
    def given_rates(self) -> dict[str, tuple[float, ...]]:
        """Arm → the learning rates in the file; further ones may be tried."""
        return {arm.name: arm.lrs for arm in self.arms}

    def choosing_jobs(self, rates: Mapping[str, Sequence[float]]) -> list[Job]:
        """The runs that decide between the learning rates of arms that have several."""
        return [
            make_job(arm, seed, lr)
            for seed in self.file.choosing_seeds
            for arm in self.arms
            for lr in rates[arm.name]
            if len(rates[arm.name]) > 1
        ]

    def first_jobs(self, rates: Mapping[str, Sequence[float]]) -> list[Job]:
        """The runs that need not wait for a choice: those that choose, and all seeds of arms with one rate."""
        ready = [make_job(arm, seed, arm.lrs[0]) for seed in self.file.seeds for arm in self.arms if len(arm.lrs) == 1]
        return self.choosing_jobs(rates) + ready

    def jobs(self, rates: Mapping[str, Sequence[float]], lrs: Mapping[str, float]) -> list[Job]:
        """All runs, the first ones first: those that choose, and every seed with its arm's chosen rate."""
        compared = [make_job(arm, seed, lrs[arm.name]) for seed in self.file.seeds for arm in self.arms]
        return list({job.folder: job for job in self.first_jobs(rates) + compared}.values())


def make_job(arm: Arm, seed: int, lr: float) -> Job:
    """The run of an arm with a seed and a learning rate."""
    labels: dict[str, str | int | float] = {"group": arm.title, "arm": arm.name, "seed": seed, "lr": lr}
    config = arm.config.with_values("training", seed=seed).with_values("optimizer", lr=lr)
    config = config.with_values("runtime", loggers=named(config.runtime.loggers, labels))
    return Job(arm.name, seed, lr, f"runs/{arm.name}/lr{lr!r}_seed{seed}", config)


def extended(lrs: Sequence[float], best: float, num_given: int) -> list[float]:
    """A list of rates with one more, if the best is at its edge and the list has not grown too often.

    Args:
        num_given: rates in the comparison's file.

    Example:
        >>> extended([0.01, 0.02], 0.02, 2), extended([0.01, 0.02, 0.04], 0.02, 2)
        ([0.01, 0.02, 0.04], [0.01, 0.02, 0.04])
    """
    ordered = sorted(lrs)
    if len(lrs) - num_given < _MOST_EXTENSIONS and len(lrs) > 1:
        if best == ordered[-1]:
            return [*lrs, float(f"{best * best / ordered[-2]:.6g}")]
        if best == ordered[0]:
            return [*lrs, float(f"{best * best / ordered[1]:.6g}")]
    return list(lrs)


def parse_seeds(words: str) -> list[int]:
    """Seeds from the command line.

    Example:
        >>> parse_seeds("0-3"), parse_seeds("0,2,5-6")
        ([0, 1, 2, 3], [0, 2, 5, 6])
    """
    if not re.fullmatch(r"\d{1,10}(-\d{1,10})?(,\d{1,10}(-\d{1,10})?)*", words):
        raise ValueError(f"--seeds: got {shown(words)}; expected seeds such as 0-9 or 0,1,5")
    seeds: list[int] = []
    for part in words.split(","):
        first, _, last = part.partition("-")
        found = range(int(first), int(last or first) + 1)
        if len(seeds) + len(found) > _MOST_SEEDS:
            raise ValueError(f"--seeds: got {shown(words)}; at most {_MOST_SEEDS:,} seeds")
        seeds += found
    return seeds


def parse_shard(words: str) -> tuple[int, int]:
    """A shard from the command line: its number, from 1, and the number of all.

    Example:
        >>> parse_shard("2/5")
        (2, 5)
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", words)
    index, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= index <= count:
        raise ValueError(f"--shard: got {words!r}; expected I/N, such as 2/5 for the second of five")
    return index, count


def shard_of(jobs: Sequence[Job], index: int, count: int) -> list[Job]:
    """The jobs of a shard; those of every arm, and all together, are spread evenly over the shards."""
    mine = {job.folder for job in sorted(jobs, key=lambda job: job.arm)[index - 1 :: count]}
    return [job for job in jobs if job.folder in mine]


def read_plan(path: str | Path, overrides: Sequence[str] = (), *, seeds: str | None = None) -> Plan:
    """Read the comparison that a file describes.

    Args:
        path: a YAML file with the keys of :class:`Comparison`, or the name of a shipped comparison.
        overrides: command-line arguments such as ``["--base.training.max_steps", "100"]``.
        seeds: in place of the file's, such as ``0-9``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an unknown key, an arm that changes a key outside ``vary``, a model that cannot be built, or rates
            without validation images; begins with the file and the key.
    """
    where = str(path)
    content = read_yaml(find_config(path, "comparison"))
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected keys and values; got {shown(content)}")
    if seeds is not None:
        content = {**content, "seeds": parse_seeds(seeds)}
    file = validate(Comparison, content, lambda _: where)
    base = merge_config(
        _base(file.base, f"{where}: base"),
        (f"{where}: changes", file.changes),
        ("command line", _base_overrides(overrides)),
    )
    base = settle_precision(base)  # one decision for all arms
    for key in file.vary:
        _check_varied(key, base, where)
    rates = file.learning_rates or {}
    named = [("baseline", file.baseline), *(("learning_rates", name) for name in rates)]
    named += [(f"contrasts.{key}", name) for key, pairs in file.contrasts.items() for pair in pairs for name in pair]
    for key, name in named:
        if name not in file.arms:
            raise ValueError(f"{where}: {key}: {unknown_name('arm', name, file.arms)}")
    if any(len(lrs) > 1 for lrs in rates.values()) and base.data.validation is None:
        raise ValueError(
            f"{where}: learning_rates: rates are chosen on validation images; base.data.validation is null"
        )
    if max(map(len, rates.values()), default=1) == 1:
        for key in ("extend", "choosing_seeds"):
            if key in file.model_fields_set and getattr(file, key):
                raise ValueError(f"{where}: {key}: no arm has several learning_rates to choose from")
    if len({len(lrs) for lrs in rates.values()}) > 1:
        counts = ", ".join(f"{name} {len(lrs)}" for name, lrs in rates.items())
        raise ValueError(f"{where}: learning_rates: arms try different numbers of rates: {counts}; give each as many")
    if file.looks and len(file.seeds) not in file.looks:
        looks = ", ".join(map(str, file.looks))
        raise ValueError(f"{where}: seeds: {len(file.seeds)} seeds are not one of the declared looks: {looks}")
    arms = tuple(_arm(name, changes or {}, base, file, where) for name, changes in file.arms.items())
    complete = {"base": base.model_dump(), "arms": {arm.name: arm.changes for arm in arms}}
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
    known = [*sections(Config), *flatten(base.model_dump(), where=where)]
    if not any(key == name or (name not in sections(Config) and _below(key, name)) for name in known):
        names = ", ".join(name for name in sections(Config) if name and "." not in name)
        raise ValueError(
            f"{where}: vary: {shown(key)}: unknown key; choose one of: {names}, or a key of theirs."
            f"{did_you_mean(key, known)}"
        )


def _arm(name: str, changes: Mapping[str, Any], base: Config, file: Comparison, where: str) -> Arm:
    here = f"{where}: arms.{name}"
    changes = flatten(changes, where=here)
    complete = base.model_dump()
    config = merge_config((where, complete), (here, changes))
    differing = differing_keys(complete, config.model_dump())
    for key in (*changes, *differing):
        if not any(_below(key, allowed) for allowed in file.vary):
            raise ValueError(f"{here}: {key}: arms may change {', '.join(file.vary)} only; declare the key under vary")
    if config.training.best is not None:
        raise ValueError(
            f"{here}: training.best: arms are compared after the same steps; set best and patience to null"
        )
    if config.training.batch_size == "auto":
        raise ValueError(
            f"{here}: training.batch_size: arms are compared at one batch size; auto may differ between them"
        )
    rates = (file.learning_rates or {}).get(name)
    if rates and "optimizer.lr" in differing:
        raise ValueError(f"{here}: optimizer.lr: the arm has learning_rates, too; give one of the two")
    try:
        check_model(config)
        config = settle(config)
    except ValueError as error:
        raise ValueError(f"{here}: {error}") from error
    return Arm(name, changes, config, tuple(rates or [config.optimizer.lr]), file.title)


def _below(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")
