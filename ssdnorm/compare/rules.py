r"""Decide whether arms differ from the baseline: rules for many comparisons from few seeds.

A rule turns the estimated differences of all arms into simultaneous intervals. Every verdict is read off them:
*better* or *worse* if the interval excludes zero, *equivalent* if it lies within the margin, else *undecided*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from scipy import stats

RuleName = Literal["guarded_t", "paired_t_holm"]
Verdict = Literal["better", "worse", "equivalent", "undecided"]

ALPHA = 0.05  # family-wise: probability of one or more false claims per comparison
# Share of alpha at which the guarded rule tests, by number of seeds; the last holds for more. Differences of skewed,
# unequally noisy arms are skewed, and Student's t then rejects up to twice as often as it says. Fitted to simulated
# rates: docs/comparison.md has them.
_GUARDS = {2: 0.5, 3: 0.5, 4: 0.4, 5: 0.35}


@dataclass(frozen=True)
class Estimate:
    """An estimated difference: an arm minus the baseline, or any contrast of arms."""

    value: float  # mean over the seeds
    num_seeds: int  # n, seeds that have all arms involved; 2 or more
    std: float  # standard deviation of the seeds' differences
    images_std: float = 0.0  # standard error of the value over test images (bootstrap); 0 if unknown
    num_images: int = 1000  # test images behind it
    scale: float = 1.0  # variance over that of a difference of two arms, if all scatter alike; 2: of two differences

    @property
    def is_constant(self) -> bool:
        """Whether all seeds and images agree, as for two arms with the same weights."""
        return self.std == 0 and self.images_std == 0


@dataclass(frozen=True)
class Decision:
    """What a rule says of one difference."""

    low: float  # simultaneous interval over all comparisons of the family
    high: float
    p: float  # adjusted for the family; below alpha exactly if the interval excludes zero
    verdict: Verdict  # equivalent needs a margin, unless both arms are equal in every seed and image
    smallest_margin: float  # within which the arms could be called equivalent


def guarded_t(estimates: Sequence[Estimate], *, alpha: float = ALPHA, margin: float | None = None) -> list[Decision]:
    r"""Student's t with a guarded standard error, calibrated for unequal and skewed arms.

    .. math:: \mathrm{SE}_i^2 = \max(s_i^2, \bar s^2) / n_i + v_i

    where :math:`s_i` is the arm's own standard deviation of paired differences, :math:`\bar s^2` the pooled variance of
    all arms and :math:`v_i` the variance over test images. The pooled part guards against a small :math:`s_i` by
    luck, the main source of false positives with few seeds; the own part against arms that are noisier than the rest.
    Critical values: see :func:`critical_value`.

    Differs from paired t-tests with Holm's correction: few seeds need no factor for the number of arms, so that with
    three seeds and five arms the critical value is 6.2 instead of 8.9, and skewed arms do not raise the error.
    Differs from Dunnett's test: holds its level if variances differ.

    Args:
        estimates: one per comparison of the family.
        alpha: family-wise level.
        margin: of equivalence, in the unit of the estimates.

    Raises:
        ValueError: for an estimate from fewer than two seeds.
    """
    pooled, num, decisions = pooled_variance(estimates), len(estimates), []
    for estimate in estimates:
        error, freedom = standard_error(estimate, at_least=pooled * estimate.scale)
        half = error * critical_value(estimate.num_seeds, num, alpha=alpha, freedom=freedom)
        t = _t(estimate, error)
        level = max(2 * stats.t.sf(t, freedom), 2 * num * stats.t.sf(t, 2 * freedom))
        p = min(1.0, level / _guard(estimate.num_seeds))  # the alpha at which the critical value is t
        decisions.append(_decide(estimate.value, half, float(p), margin, alpha))
    return decisions


@cache
def critical_value(
    num_seeds: int, num_comparisons: int, *, alpha: float = ALPHA, freedom: float | None = None
) -> float:
    """The guarded rule's critical value of ``|t|``.

    The larger of Student's with ``freedom`` (n − 1 by default) for one comparison, and with twice as many for all of
    them (Bonferroni), at a share of alpha. The form was fitted to simulated critical values.

    Example:
        >>> [round(critical_value(n, 4), 1) for n in (3, 5, 8)]
        [6.2, 3.9, 3.4]
    """
    if num_seeds < 2:
        raise ValueError(f"critical_value: needs 2 seeds or more; got {num_seeds}")
    level = alpha * _guard(num_seeds)
    freedom = num_seeds - 1 if freedom is None else freedom
    one = stats.t.isf(level / 2, freedom)
    together = stats.t.isf(level / 2 / num_comparisons, 2 * freedom)
    return float(max(one, together))


def standard_error(estimate: Estimate, *, at_least: float = 0.0) -> tuple[float, float]:
    r"""Standard error over seeds and test images, and its degrees of freedom.

    .. math:: \mathrm{SE}^2 = s^2 / n + v, \qquad
        \nu = (u + v)^2 / \big( u^2 / (n - 1) + v^2 / (N - 1) \big), \qquad u = \frac{n + 3}{n - 1} \, s^2 / n

    Differs from Satterthwaite's degrees of freedom, which have :math:`u = s^2 / n`: with three seeds, intervals then
    hold the truth in 92 % of cases only, because an :math:`s` that is small by luck also seems to matter little beside
    the images. The factor was fitted to simulated coverage.

    Args:
        at_least: lower bound of the variance over seeds; not for constant estimates.

    Sources:
        F. Satterthwaite, An approximate distribution of estimates of variance components, Biometrics 2, 1946.
    """
    if estimate.is_constant:
        return 0.0, estimate.num_seeds - 1
    seeds = max(estimate.std**2, at_least) / estimate.num_seeds
    images = estimate.images_std**2
    freedom = shared_freedom(seeds, images, estimate.num_seeds, estimate.num_images)
    return math.sqrt(seeds + images), float(freedom)


def shared_freedom(seeds: Any, images: float, num_seeds: int, num_images: int) -> Any:
    """Degrees of freedom of a sum of variances over seeds, a number or an array of them, and over images."""
    inflated = seeds * (num_seeds + 3) / (num_seeds - 1)
    parts = inflated**2 / (num_seeds - 1) + images**2 / max(1, num_images - 1)
    return (inflated + images) ** 2 / parts


def pointwise_interval(estimate: Estimate, *, level: float = 0.95) -> tuple[float, float]:
    """The interval of one difference alone, over seeds and test images; no guard, no correction."""
    error, freedom = standard_error(estimate)
    half = error * float(stats.t.isf((1 - level) / 2, freedom))
    return estimate.value - half, estimate.value + half


def pooled_variance(estimates: Sequence[Estimate]) -> float:
    """Variance of paired differences over seeds, pooled over arms that are not the baseline under another name."""
    varying = [e for e in estimates if not e.is_constant]
    freedom = sum(e.num_seeds - 1 for e in varying)
    return sum((e.num_seeds - 1) * e.std**2 / e.scale for e in varying) / freedom if freedom else 0.0


def paired_t_holm(
    estimates: Sequence[Estimate], *, alpha: float = ALPHA, margin: float | None = None
) -> list[Decision]:
    """Paired t-tests with Holm's correction: exact for normal differences, of little power with few seeds.

    Intervals are Bonferroni's; ``p`` is Holm's, and may fall below alpha where the interval still holds zero.

    Sources:
        S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979.
    """
    halves, raw = [], []
    for estimate in estimates:
        error, freedom = standard_error(estimate)
        halves.append(error * float(stats.t.isf(alpha / 2 / len(estimates), freedom)))
        raw.append(2 * float(stats.t.sf(_t(estimate, error), freedom)))
    return [
        _decide(estimate.value, half, p, margin, alpha)
        for estimate, half, p in zip(estimates, halves, holm(raw), strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: the k-th smallest of m times m − k + 1, never falling, at most 1.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(p_values)[order]))
    return adjusted.tolist()


RULES = {"guarded_t": guarded_t, "paired_t_holm": paired_t_holm}


def _guard(num_seeds: int) -> float:
    return _GUARDS[min(num_seeds, 5)]


def _t(estimate: Estimate, error: float) -> float:
    if error:
        return abs(estimate.value) / error
    return math.inf if estimate.value else 0.0


def _decide(value: float, half: float, p: float, margin: float | None, alpha: float) -> Decision:
    low, high = value - half, value + half
    smallest = max(abs(low), abs(high))
    if p < alpha and value != 0:
        verdict: Verdict = "better" if value > 0 else "worse"
    else:
        verdict = "equivalent" if smallest == 0 or (margin is not None and smallest < margin) else "undecided"
    return Decision(low, high, p, verdict, smallest)
