"""Results of a comparison as data; JSON, tables and the report are made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "VOC07", "VOC")

Status = Literal["finished", "diverged", "failed", "missing"]
Verdict = Literal["baseline", "better", "worse", "no evidence of a difference", "one seed", "incomplete"]


@dataclass(frozen=True)
class Run:
    """One training: an arm with a seed and a learning rate.

    Attributes:
        folder: of the run, relative to the comparison's folder.
        status: diverged if the loss became NaN or infinite; failed for any other error; missing if there is no result.
        result: content of its ``result.json``; empty if not finished.
        seconds_to_target: training time until an evaluation reached the target AP50; None if none did.
    """

    arm: str
    seed: int
    lr: float
    folder: str
    status: Status
    reason: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    seconds_to_target: float | None = None


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
    """An arm minus the baseline.

    Attributes:
        paired: by seed, so that what a seed does to both arms cancels.
        p: of Student's paired t-test; None from one pair.
        p_holm: after Holm's correction over the arms; for the comparison's metric only.
        images: 95 % interval (low, high) of the paired bootstrap over test images, for the metrics that have one.
    """

    paired: Mean
    p: float | None
    p_holm: float | None = None
    images: tuple[float, float] | None = None


@dataclass(frozen=True)
class Rate:
    """A learning rate tried with the first seed, and the metric on the validation images; None if it is missing."""

    lr: float
    validation: float | None
    status: Status


@dataclass(frozen=True)
class Costs:
    """What an arm costs; None if unknown.

    Attributes:
        gflops: 10⁹ operations of one image's forward pass; a multiply-add counts as two.
        images_per_second: of training; median over a run, mean over the seeds.
        peak_memory_mib: maximum over the seeds.
        latency_ms: of one image through the detector with batch norm folded; on a CPU the processor time of one thread.
        seconds_to_target: training time to the target AP50, mean over the ``num_reached`` seeds that reached it.
    """

    parameters: int | None
    gflops: float | None
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
        why: statistic of ``diagnostics.csv`` → tap, layer or block → first and last value, mean over the seeds.
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
    sentence: str
    costs: Costs
    matched: Matched | None
    why: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def chosen_runs(self) -> list[Run]:
        """Runs with the chosen learning rate, by seed."""
        return [run for run in self.runs if run.lr == self.lr]

    @property
    def finished_runs(self) -> list[Run]:
        """Finished runs with the chosen learning rate, by seed."""
        return [run for run in self.chosen_runs if run.status == "finished"]


@dataclass(frozen=True)
class Results:
    """A whole comparison.

    Attributes:
        answer: two sentences: what was found, and how certain it is.
        metric: what the verdicts are about.
        seed_noise: standard deviation of the metric over seeds, pooled over the arms; None from one seed.
        config: the comparison's own config, complete.
    """

    title: str
    answer: str
    metric: str
    baseline: str
    seeds: list[int]
    target_ap50: float
    seed_noise: float | None
    arms: list[ArmResult]
    provenance: dict[str, Any]
    config: dict[str, Any]
