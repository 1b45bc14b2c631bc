"""Results of a comparison as data; JSON, tables and the report are made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ssdnorm.compare.rules import Decision, RuleName

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "VOC07", "VOC")

# diverged: the loss became NaN or infinite; failed: any other error; missing: no result
Status = Literal["finished", "diverged", "failed", "missing"]
Verdict = Literal["baseline", "better", "worse", "equivalent", "undecided", "one seed", "incomplete"]


@dataclass(frozen=True)
class Run:
    """One training: an arm with a seed and a learning rate."""

    arm: str
    seed: int
    lr: float
    folder: str  # relative to the comparison's
    status: Status
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)  # content of its result.json; empty if not finished
    seconds_to_target: float | None = None  # of training, until an evaluation reached the target AP50
    compared: bool = True  # otherwise it served the choice of the learning rate alone


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95 % interval (Student's t), which one value does not have."""

    values: list[float]  # one per finished seed
    mean: float
    std: float | None  # with n − 1 in the denominator
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline, or a contrast of arms."""

    paired: Mean  # by seed, so that what a seed does to both arms cancels
    images: tuple[float, float] | None = None  # 95 % interval of the paired bootstrap, for the metrics that have one
    images_std: float | None = None  # standard error over test images
    low: float | None = None  # 95 % interval over seeds and test images, of this difference alone; None from one seed
    high: float | None = None


@dataclass(frozen=True)
class Finding(Decision):
    """What the rule says of one difference among all of the comparison."""

    # that give a verdict with a probability of 80 %, if the difference and the scatter are those seen; 0 if there is a
    # verdict, None if more than 200 seeds would be needed
    more_seeds: int | None


@dataclass(frozen=True)
class Contrast:
    """A declared difference of arms, or of two such differences."""

    name: str
    pairs: list[tuple[str, str]]  # [(a, b)] for a − b, [(a, b), (c, d)] for (a − b) − (c − d)
    difference: Difference | None
    finding: Finding | None
    sentence: str


@dataclass(frozen=True)
class Outcome:
    """How many seeds learnt: finished with the AP50 that the comparison asks for at least."""

    num_learnt: int
    num_diverged: int
    num_runs: int  # finished or diverged
    p: float | None  # of Barnard's exact test against the baseline, after Holm's correction over the arms
    mean_learnt: float | None  # the metric over the seeds that learnt
    mean_all: float | None  # the metric over all seeds, 0 for diverged ones


@dataclass(frozen=True)
class Rate:
    """A learning rate tried, and the metric on the validation images, mean over the choosing seeds."""

    lr: float
    validation: float | None  # None if a seed has none
    status: Status  # finished if all seeds are


@dataclass(frozen=True)
class Costs:
    """What an arm costs; None if unknown."""

    parameters: int | None
    images_per_second: float | None  # of training; median over a run, mean over the seeds
    peak_memory_mib: int | None  # maximum over the seeds
    latency_ms: float | None  # of one image, with batch norm folded; on a CPU the processor time of one thread
    seconds_to_target: float | None  # of training to the target AP50, mean over the seeds that reached it
    num_reached: int


@dataclass(frozen=True)
class Matched:
    """What an arm and the baseline have in common before the first step, bit by bit."""

    identical: int  # number of parameters with the same name, shape and value
    different: list[str]  # names of common parameters that start from other values or shapes
    added: list[str]  # names of parameters that only this arm has
    removed: list[str]  # … that only the baseline has
    same_batches: bool
    parameter_groups: list[dict[str, Any]]
    batch_norm_images: int | None  # under its statistics, of one device, or of all if synchronised; None without it


@dataclass(frozen=True)
class ArmResult:
    """Everything about one arm."""

    name: str
    changes: dict[str, Any]  # dotted config key → value, against the base config
    lr: float  # the chosen learning rate; runs with another one count in ``rates`` only
    rates: list[Rate]
    runs: list[Run]
    metrics: dict[str, Mean]  # in [0, 1], on the test images
    per_class: dict[str, float]  # mean AP over the seeds
    population: dict[str, Mean]  # as metrics, with recomputed batch-norm statistics
    differences: dict[str, Difference]  # to the baseline, by metric
    verdict: Verdict
    finding: Finding | None
    outcome: Outcome
    sentence: str
    costs: Costs
    matched: Matched | None  # None if the runs did not record their start

    @property
    def chosen_runs(self) -> list[Run]:
        """The runs that are compared: with the chosen learning rate, by seed."""
        return [run for run in self.runs if run.compared]

    @property
    def at_edge(self) -> bool:
        """Whether the chosen rate is the lowest or the highest of several."""
        return len(self.rates) > 1 and self.lr in (min(r.lr for r in self.rates), max(r.lr for r in self.rates))

    @property
    def finished_runs(self) -> list[Run]:
        """The finished ones of them."""
        return [run for run in self.chosen_runs if run.status == "finished"]


@dataclass(frozen=True)
class Results:
    """A whole comparison."""

    title: str
    answer: str  # what was found, and how certain it is
    metric: str  # what the verdicts are about
    baseline: str
    seeds: list[int]
    target_ap50: float
    learnt_ap50: float
    rule: RuleName
    level: float  # family-wise, of this look if several were declared
    margin: float | None
    looks: list[int] | None
    second_look: str  # keys that were declared after verdicts were known; empty if none were
    seed_noise: float | None  # standard deviation of the metric over seeds, pooled over the arms; None from one seed
    detectable: float | None  # smallest difference that these seeds and images find with a probability of 80 %
    # by number of seeds: the same, and the smallest margin within which equal arms are so likely called equivalent
    detectable_by_seeds: list[tuple[int, float, float]]
    arms: list[ArmResult]
    contrasts: list[Contrast]
    provenance: dict[str, Any]
    config: dict[str, Any]  # the comparison's own, complete
