"""Results of a comparison as data; JSON, tables and the report are made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ssdnorm.compare.rules import Decision, RuleName

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "VOC07", "VOC")

Status = Literal["finished", "diverged", "failed", "missing"]
Verdict = Literal["baseline", "better", "worse", "equivalent", "undecided", "one seed", "incomplete"]


@dataclass(frozen=True)
class Run:
    """One training: an arm with a seed and a learning rate.

    Attributes:
        folder: of the run, relative to the comparison's folder.
        status: diverged if the loss became NaN or infinite; failed for any other error; missing if there is no result.
        result: content of its ``result.json``; empty if not finished.
        seconds_to_target: training time until an evaluation reached the target AP50; None if none did.
        compared: whether it counts in the comparison, or served the choice of the learning rate alone.
    """

    arm: str
    seed: int
    lr: float
    folder: str
    status: Status
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    seconds_to_target: float | None = None
    compared: bool = True


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95 % interval (Student's t), which one value does not have.

    Attributes:
        values: one per finished seed.
        std: with n − 1 in the denominator.
    """

    values: list[float]
    mean: float
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline, or a contrast of arms.

    Attributes:
        paired: by seed, so that what a seed does to both arms cancels.
        images: 95 % interval (low, high) of the paired bootstrap over test images, for the metrics that have one.
        images_std: standard error over test images.
        low, high: 95 % interval over seeds and test images, of this difference alone; None from one seed.
    """

    paired: Mean
    images: tuple[float, float] | None = None
    images_std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Finding(Decision):
    """What the rule says of one difference among all of the comparison.

    Attributes:
        more_seeds: that give a verdict with a probability of 80 %, if the difference and the scatter are those seen;
            0 if there is a verdict, None if more than 200 seeds would be needed.
    """

    more_seeds: int | None


@dataclass(frozen=True)
class Contrast:
    """A declared difference of arms, or of two such differences.

    Attributes:
        pairs: ``[(a, b)]`` for a − b, ``[(a, b), (c, d)]`` for (a − b) − (c − d).
    """

    name: str
    pairs: list[tuple[str, str]]
    difference: Difference | None
    finding: Finding | None
    sentence: str


@dataclass(frozen=True)
class Outcome:
    """How many seeds learnt: finished with the AP50 that the comparison asks for at least.

    Attributes:
        num_runs: finished or diverged.
        p: of Barnard's exact test against the baseline, after Holm's correction over the arms.
        mean_learnt: the metric over the seeds that learnt.
        mean_all: the metric over all seeds, 0 for diverged ones.
    """

    num_learnt: int
    num_diverged: int
    num_runs: int
    p: float | None
    mean_learnt: float | None
    mean_all: float | None


@dataclass(frozen=True)
class Rate:
    """A learning rate tried, and the metric on the validation images, mean over the choosing seeds.

    Attributes:
        validation: None if a seed has none.
        status: finished if all seeds are.
    """

    lr: float
    validation: float | None
    status: Status


@dataclass(frozen=True)
class Costs:
    """What an arm costs; None if unknown.

    Attributes:
        images_per_second: of training; median over a run, mean over the seeds.
        peak_memory_mib: maximum over the seeds.
        latency_ms: of one image through the detector with batch norm folded; on a CPU the processor time of one thread.
        seconds_to_target: training time to the target AP50, mean over the ``num_reached`` seeds that reached it.
    """

    parameters: int | None
    images_per_second: float | None
    peak_memory_mib: int | None
    latency_ms: float | None
    seconds_to_target: float | None
    num_reached: int


@dataclass(frozen=True)
class Matched:
    """What an arm and the baseline have in common before the first step, bit by bit.

    Attributes:
        identical: number of parameters with the same name, shape and value.
        different: names of common parameters that start from other values or shapes.
        added, removed: names of parameters that only this arm, or only the baseline, has.
        batch_norm_images: that batch norm takes its statistics over, of one device, or of all if synchronised; None
            without batch norm.
    """

    identical: int
    different: list[str]
    added: list[str]
    removed: list[str]
    same_batches: bool
    parameter_groups: list[dict[str, Any]]
    batch_norm_images: int | None


@dataclass(frozen=True)
class ArmResult:
    """Everything about one arm.

    Attributes:
        changes: dotted config key → value, against the base config.
        lr: the chosen learning rate; runs with another one count in ``rates`` only.
        metrics: in [0, 1], on the test images.
        per_class: mean AP over the seeds.
        population: as metrics, with recomputed batch-norm statistics.
        differences: to the baseline, by metric.
        matched: None if the runs did not record their start.
    """

    name: str
    changes: dict[str, Any]
    lr: float
    rates: list[Rate]
    runs: list[Run]
    metrics: dict[str, Mean]
    per_class: dict[str, float]
    population: dict[str, Mean]
    differences: dict[str, Difference]
    verdict: Verdict
    finding: Finding | None
    outcome: Outcome
    sentence: str
    costs: Costs
    matched: Matched | None

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
    """A whole comparison.

    Attributes:
        answer: what was found, and how certain it is.
        metric: what the verdicts are about.
        level: family-wise, of this look if several were declared.
        second_look: keys that were declared after verdicts were known; empty if none were.
        seed_noise: standard deviation of the metric over seeds, pooled over the arms; None from one seed.
        detectable: the smallest difference to the baseline that these seeds and images find with a probability of 80 %.
        detectable_by_seeds: the same by number of seeds, and the smallest margin within which equal arms are called
            equivalent with that probability.
        config: the comparison's own config, complete.
    """

    title: str
    answer: str
    metric: str
    baseline: str
    seeds: list[int]
    target_ap50: float
    learnt_ap50: float
    rule: RuleName
    level: float
    margin: float | None
    looks: list[int] | None
    second_look: str
    seed_noise: float | None
    detectable: float | None
    detectable_by_seeds: list[tuple[int, float, float]]
    arms: list[ArmResult]
    contrasts: list[Contrast]
    provenance: dict[str, Any]
    config: dict[str, Any]
