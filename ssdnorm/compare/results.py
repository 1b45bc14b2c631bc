"""This file is about results: what a comparison has found, as data that tables, JSON and the report are made from."""

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
        status: diverged means that the loss stopped being a number; failed means any other end.
        reason: why it diverged or failed, in one line.
        result: the content of its ``result.json``; empty where there is none.
        seconds_to_target: time trained until an evaluation reached the target AP50; None if none did.
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
    """A mean over seeds with its 95 % interval (Student's t); no interval from one value.

    Attributes:
        values: by seed, in the order of the seeds that finished.
        std: with n − 1 in the denominator; None from one value.
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
        paired: by seed, so that a seed's luck cancels.
        p: of Student's paired t-test; None from one pair.
        p_holm: the same after Holm's correction over the arms; only for the metric that the answer is about.
        images: 95 % interval of the paired bootstrap over test images, mean over the seeds: low, high; only for
            metrics that it is made for.
    """

    paired: Mean
    p: float | None
    p_holm: float | None = None
    images: tuple[float, float] | None = None


@dataclass(frozen=True)
class Rate:
    """One learning rate that was tried for an arm with the first seed.

    Attributes:
        validation: the comparison's metric on the validation images; None without a finished run or such images.
        status: of the run.
    """

    lr: float
    validation: float | None
    status: Status


@dataclass(frozen=True)
class Costs:
    """What an arm costs; None where it could not be had.

    Attributes:
        gflops: of one image's forward pass, in 10⁹ multiply-adds × 2.
        images_per_second: of training, median over the run, mean over the seeds.
        peak_memory_mib: largest over the seeds.
        latency_ms: of one image through the detector, batch norm folded; median of interleaved rounds. On a CPU it is
            the processor time of one thread.
        seconds_to_target: mean over the seeds that reached the target AP50 on the images evaluated during training.
        num_reached: how many did.
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
    """What an arm shares with the baseline before the first step, and what it does not (first seed).

    Attributes:
        identical: parameters of the same name, shape and value, bit by bit.
        different: names of common parameters that start from other values or shapes.
        added, removed: names of parameters that only this arm, or only the baseline, has.
        same_batches: whether the first batches are the same, bit by bit.
        parameter_groups: rows as in ``result.json``.
        batch_norm_images: over which batch norm takes its statistics in training: those of one device, or of all where
            it is synchronised; None without it.
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
        lr: the chosen learning rate; runs with another one do not enter any number but ``rates``.
        runs: all of them, with every learning rate.
        metrics: by name, in [0, 1], on the test images; empty where no run finished.
        per_class: class name → mean AP over the seeds.
        population: as metrics, with batch norm's statistics recomputed; empty where there are none.
        differences: to the baseline, by metric; empty for the baseline.
        sentence: what can be said about the arm, in words.
        matched: None where the arm, or the baseline, could not be built again for it.
        why: statistic of ``diagnostics.csv`` → tap, layer or block → value at the first and at the last step, mean over
            the seeds; empty where nothing was measured.
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
        """Finished runs with the chosen learning rate, by seed."""
        return [run for run in self.runs if run.lr == self.lr and run.status == "finished"]


@dataclass(frozen=True)
class Results:
    """A whole comparison.

    Attributes:
        title: of the comparison, from its config file.
        answer: two sentences: what was found, and how sure it is.
        metric: what the answer is about; one of ``METRICS``.
        target_ap50: what ``seconds_to_target`` refers to.
        seed_noise: standard deviation over seeds of ``metric``, pooled over the arms; None from one seed each.
        provenance: commits, versions, devices, seconds in all, number of images, steps, batch size.
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
