"""Simulate the rules of comparisons: false-positive rates, power, equivalence and coverage by scenario.

Each scenario draws arms × seeds of a metric many times. False positives come from arms with the same mean, power from
one arm that is better by a given number of scatters: `python benchmarks/comparison_rules.py --page docs/comparison.md`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))

from ssdnorm.compare.looks import spent_alpha
from ssdnorm.compare.rules import ALPHA, Estimate, critical_value, pointwise_interval

NUM_SEEDS = (3, 5, 8)
NUM_ARMS = (2, 3, 5, 15)
SHAPES = ("normal", "skewed")  # skewed: exponential, most seeds good and a few that lag
# which arms have ten times the variance of the others
VARIANCES = ("equal", "baseline", "one arm", "half of the arms", "rising", "all but the baseline")
CORRELATIONS = (-0.5, 0.0, 0.5, 0.9)  # of baseline and arm over seeds
LOOKS = (3, 5)  # before all seeds are there
_RATIO = 10.0


@dataclass(frozen=True)
class Scenario:
    """What the arms of one simulated comparison are like; standard deviations are in units of the quietest arm."""

    num_seeds: int
    num_arms: int
    shape: str = "normal"
    variances: str = "equal"
    correlation: float = 0.0
    failing: bool = False  # one seed of one arm does not finish

    def draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """Metrics ``(size, num_arms, num_seeds)``; NaN for a run without a result. Arm 0 is the baseline."""
        weight = math.sqrt(abs(self.correlation))
        loads = np.full(self.num_arms, weight)
        loads[0] = math.copysign(weight, self.correlation)
        own = self._noise(rng, (size, self.num_arms, self.num_seeds))
        shared = self._noise(rng, (size, 1, self.num_seeds))
        values = loads[:, None] * shared + math.sqrt(1 - abs(self.correlation)) * own
        values *= self.deviations()[:, None]
        if self.failing:
            lost = rng.integers(self.num_arms * self.num_seeds, size=size)
            values.reshape(size, -1)[np.arange(size), lost] = np.nan
        return values

    def deviations(self) -> np.ndarray:
        """Standard deviation by arm."""
        high = math.sqrt(_RATIO)
        sd = np.ones(self.num_arms)
        if self.variances == "baseline":
            sd[0] = high
        elif self.variances == "one arm":
            sd[-1] = high
        elif self.variances == "half of the arms":
            sd[self.num_arms // 2 + 1 :] = high
        elif self.variances == "all but the baseline":
            sd[1:] = high
        elif self.variances == "rising":
            sd = high ** np.linspace(0, 1, self.num_arms)
        return sd

    def _noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape) if self.shape == "normal" else 1 - rng.exponential(size=shape)


# metrics (R, arms, seeds) and the level → estimates and half widths of simultaneous intervals, (R, arms − 1) each
Rule = Callable[[np.ndarray, float], tuple[np.ndarray, np.ndarray]]


def guarded_t(values: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """The package's ``guarded_t`` on many comparisons at once."""
    mean, std, n = _paired(values)
    freedom = n - 1
    pooled = (freedom * std**2).sum(1, keepdims=True) / freedom.sum(1, keepdims=True)
    error = np.sqrt(np.maximum(std**2, pooled) / n)
    critical = {k: critical_value(int(k), values.shape[1] - 1, alpha=alpha) for k in np.unique(n)}
    return mean, error * np.vectorize(critical.__getitem__)(n)


def paired_t_holm(values: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Paired t-tests at the first step of Holm's procedure, which decides whether there is any false positive."""
    mean, std, n = _paired(values)
    return mean, std / np.sqrt(n) * stats.t.isf(alpha / 2 / (values.shape[1] - 1), n - 1)


def blocked_dunnett(values: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Dunnett's test with seeds as blocks: one pooled variance of the two-way layout."""
    kept = np.where(np.isnan(values).any(1, keepdims=True), np.nan, values)  # blocks are complete
    n = (~np.isnan(kept[:, 0])).sum(1)
    num_arms = values.shape[1]
    centre = np.nanmean(kept, axis=2, keepdims=True) + np.nanmean(kept, axis=1, keepdims=True)
    residual = kept - centre + np.nanmean(kept, axis=(1, 2), keepdims=True)
    freedom = (num_arms - 1) * (n - 1)
    variance = np.nansum(residual**2, axis=(1, 2)) / freedom
    critical = {int(f): dunnett_critical_value(num_arms - 1, int(f), alpha) for f in np.unique(freedom)}
    half = np.sqrt(2 * variance / n) * np.vectorize(critical.__getitem__)(freedom)
    means = np.nanmean(kept, axis=2)
    return means[:, 1:] - means[:, :1], np.broadcast_to(half[:, None], (len(values), num_arms - 1))


def games_howell(values: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Welch's t, unpaired, with the studentized range's critical value for each pair."""
    n = (~np.isnan(values)).sum(2)
    mean = np.nanmean(values, axis=2)
    variance = np.nanvar(values, axis=2, ddof=1) / n
    square = variance[:, 1:] + variance[:, :1]
    parts = variance[:, 1:] ** 2 / (n[:, 1:] - 1) + variance[:, :1] ** 2 / (n[:, :1] - 1)
    critical = _range_critical_values(values.shape[1], alpha)
    return mean[:, 1:] - mean[:, :1], np.sqrt(square) * critical(square**2 / parts)


RULES: dict[str, Rule] = {
    "guarded t": guarded_t,
    "paired t, Holm": paired_t_holm,
    "Dunnett, blocked": blocked_dunnett,
    "Games–Howell": games_howell,
}


PRODUCT = ("guarded t", "paired t, Holm")  # the rules that a comparison can declare


def _paired(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation and number of the paired differences to the baseline, ``(R, arms − 1)`` each."""
    differences = values[:, 1:] - values[:, :1]
    n = (~np.isnan(differences)).sum(2)
    if not np.isnan(differences).any():
        return differences.mean(2), differences.std(2, ddof=1), n
    return np.nanmean(differences, axis=2), np.nanstd(differences, axis=2, ddof=1), n


@cache
def dunnett_critical_value(num_comparisons: int, freedom: int, alpha: float) -> float:
    """Two-sided critical value of Dunnett's test for groups of one size, by quadrature over baseline and scale."""
    z, wz = np.polynomial.hermite_e.hermegauss(60)
    u, wu = np.polynomial.legendre.leggauss(80)
    u, wu = (u + 1) / 2, wu / 2
    scale = np.sqrt(stats.chi2.ppf(u, freedom) / freedom)

    def exceed(c: float) -> float:
        upper = z[None] + math.sqrt(2) * c * scale[:, None]
        lower = z[None] - math.sqrt(2) * c * scale[:, None]
        inside = (stats.norm.cdf(upper) - stats.norm.cdf(lower)) ** num_comparisons
        return 1 - float((wu[:, None] * wz[None] / math.sqrt(2 * math.pi) * inside).sum())

    low, high = 0.0, 200.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exceed(middle) > alpha else (low, middle)
    return high


@cache
def _range_critical_values(num_arms: int, alpha: float) -> Callable[[np.ndarray], np.ndarray]:
    """Critical value of ``|t|`` by degrees of freedom, interpolated in 1 / freedom."""
    knots = np.array([1.0, 1.25, 1.6, 2, 2.5, 3.2, 4, 6, 8, 12, 20, 40])
    values = np.array([stats.studentized_range.isf(alpha, num_arms, f) for f in knots]) / math.sqrt(2)
    order = np.argsort(1 / knots)
    return lambda freedom: np.exp(np.interp(1 / freedom, (1 / knots)[order], np.log(values)[order]))


def null_scenarios(num_seeds: int, arms: Sequence[int] = NUM_ARMS) -> list[Scenario]:
    """Every combination for one number of seeds; runs that fail are tried without correlation."""
    complete = [
        Scenario(num_seeds, num_arms, shape, variances, correlation)
        for num_arms in arms
        for shape in SHAPES
        for variances in VARIANCES
        for correlation in CORRELATIONS
    ]
    return complete + [replace(s, failing=True) for s in complete if s.correlation == 0]


def false_positives(scenario: Scenario, size: int, seed: int) -> dict[str, float]:
    """Rule → share of comparisons of equal arms in which at least one is called better or worse."""
    values = scenario.draw(np.random.default_rng(seed), size)
    rates = {}
    for name, rule in RULES.items():
        estimate, half = rule(values, ALPHA)
        rates[name] = float((np.abs(estimate) > half).any(axis=1).mean())
    return rates


def false_positives_over_looks(scenario: Scenario, size: int, seed: int) -> dict[str, float]:
    """Rule → share of comparisons of equal arms with a false claim at any of the declared looks up to all seeds."""
    values, looks = scenario.draw(np.random.default_rng(seed), size), [*LOOKS, scenario.num_seeds]
    claims = {name: np.zeros(size, bool) for name in RULES if name in PRODUCT}
    for look, level in zip(looks, spent_alpha(looks), strict=True):
        for name, claimed in claims.items():
            estimate, half = RULES[name](values[:, :, :look], level)
            claimed |= (np.abs(estimate) > half).any(axis=1)
    return {name: float(claimed.mean()) for name, claimed in claims.items()}


def false_equivalences(scenario: Scenario, size: int, seed: int) -> dict[str, float]:
    """Rule → share of comparisons in which an arm that is better, or worse, by just the margin is called equivalent."""
    margin = 6 * float(scenario.deviations().max())
    values = scenario.draw(np.random.default_rng(seed), size)
    rates = {}
    for name, rule in RULES.items():
        estimate, half = rule(values, ALPHA)
        claims = [(np.abs(estimate + side * margin) + half < margin).any(axis=1).mean() for side in (-1, 1)]
        rates[name] = float(max(claims))
    return rates


def power(num_seeds: int, num_arms: int, gap: float, size: int, seed: int) -> dict[str, float]:
    """Rule → share of comparisons in which an arm that is better by ``gap`` scatters of a seed is found."""
    values = Scenario(num_seeds, num_arms).draw(np.random.default_rng(seed), size)
    values[:, 1] += gap
    rates = {}
    for name, rule in RULES.items():
        estimate, half = rule(values, ALPHA)
        rates[name] = float((estimate > half)[:, 0].mean())
    return rates


def coverage(num_seeds: int, images_share: float, size: int, seed: int, num_images: int = 100) -> float:
    """Share of the 95 % intervals over seeds and images that hold the true difference.

    Args:
        images_share: of the estimate's variance that comes from the test images.
    """
    rng = np.random.default_rng(seed)
    seeds = rng.standard_normal((size, num_seeds)) * math.sqrt((1 - images_share) * num_seeds)
    images = rng.standard_normal((size, num_images)) * math.sqrt(images_share * num_images)
    value = seeds.mean(1) + images.mean(1)
    std, images_std = seeds.std(1, ddof=1), images.std(1, ddof=1) / math.sqrt(num_images)
    inside = 0
    for v, s, i in zip(value.tolist(), std.tolist(), images_std.tolist(), strict=True):
        low, high = pointwise_interval(Estimate(v, num_seeds, s, i, num_images))
        inside += low <= 0 <= high
    return inside / size


def simulate(
    size: int, *, seeds: Sequence[int] = NUM_SEEDS, arms: Sequence[int] = NUM_ARMS, processes: int = 2
) -> dict[str, Any]:
    """All numbers of the table, as plain dicts for JSON."""
    found: dict[str, Any] = {"size": size, "false positives": {}, "false equivalences": {}, "power": {}, "coverage": {}}
    with ProcessPoolExecutor(processes) as pool:
        for what, measure in (("false positives", false_positives), ("false equivalences", false_equivalences)):
            for n in seeds:
                scenarios = null_scenarios(n, arms)
                jobs = pool.map(measure, scenarios, [size] * len(scenarios), range(len(scenarios)), chunksize=4)
                rates = list(tqdm(jobs, total=len(scenarios), desc=f"{what}, {n} seeds"))
                found[what][str(n)] = _worst(scenarios, rates)
        if seeds[-1] > LOOKS[-1]:
            scenarios = [s for s in null_scenarios(seeds[-1], arms) if not s.failing]
            jobs = pool.map(
                false_positives_over_looks, scenarios, [size] * len(scenarios), range(len(scenarios)), chunksize=4
            )
            rates = list(tqdm(jobs, total=len(scenarios), desc="false positives over looks"))
            found["looks"] = {str(seeds[-1]): _worst(scenarios, rates)}
    for n in seeds:
        found["power"][str(n)] = {f"{gap:g}": power(n, 5, gap, size, 0) for gap in (1, 2, 4, 8)}
        found["coverage"][str(n)] = {str(share): coverage(n, share, size, 0) for share in (0.1, 0.3, 0.5, 0.7, 0.9)}
    return found


def _worst(scenarios: Sequence[Scenario], rates: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Rule → kind of scenario → highest rate."""
    worst: dict[str, dict[str, float]] = {name: {} for name in rates[0]}
    for scenario, found in zip(scenarios, rates, strict=True):
        kind = f"{scenario.shape}, {'equal' if scenario.variances == 'equal' else 'unequal'}"
        for name, rate in found.items():
            worst[name][kind] = max(rate, worst[name].get(kind, 0.0))
    return worst


def render(found: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    kinds = [f"{shape}, {variances}" for shape in SHAPES for variances in ("equal", "unequal")]
    lines = []
    for what in ("false positives", "false equivalences"):
        lines += [f"Family-wise {what}, %, the worst of the scenarios of a kind (level 5 %):", ""]
        lines += ["| rule | seeds | " + " | ".join(kinds) + " |", "| --- | --- |" + " --- |" * len(kinds)]
        for name in RULES:
            for n, by_rule in found[what].items():
                cells = " | ".join(f"{100 * by_rule[name][kind]:.1f}" for kind in kinds)
                lines.append(f"| {name} | {n} | {cells} |")
        lines.append("")
    for n, by_rule in found.get("looks", {}).items():
        looks = ", ".join(map(str, LOOKS))
        lines += [f"The same of declared looks at {looks} and {n} seeds, any of which may claim:", ""]
        lines += ["| rule | " + " | ".join(kinds) + " |", "| --- |" + " --- |" * len(kinds)]
        lines += [
            f"| {name} | " + " | ".join(f"{100 * rates[k]:.1f}" for k in kinds) + " |"
            for name, rates in by_rule.items()
        ]
        lines.append("")
    gaps = list(next(iter(found["power"].values())))
    lines += ["Power, %: five normal arms of equal variance, one better by so many scatters of a seed:", ""]
    lines += ["| rule | seeds | " + " | ".join(gaps) + " |", "| --- | --- |" + " --- |" * len(gaps)]
    for name in RULES:
        for n, by_gap in found["power"].items():
            lines.append(f"| {name} | {n} | " + " | ".join(f"{100 * by_gap[gap][name]:.0f}" for gap in gaps) + " |")
    shares = list(next(iter(found["coverage"].values())))
    lines += ["", "Coverage, %, of the 95 % interval over seeds and images, by the images' share of the variance:", ""]
    lines += ["| seeds | " + " | ".join(shares) + " |", "| --- |" + " --- |" * len(shares)]
    for n, by_share in found["coverage"].items():
        lines.append(f"| {n} | " + " | ".join(f"{100 * by_share[share]:.1f}" for share in shares) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10_000, help="simulated comparisons per scenario")
    parser.add_argument("--page", type=Path, help="Markdown page whose block is replaced; numbers go beside it as JSON")
    arguments = parser.parse_args()
    found = simulate(arguments.size)
    if arguments.page is None:
        print(render(found))
        return
    arguments.page.with_name("comparison_rules.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = arguments.page.read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    arguments.page.write_text(f"{before}{_BEGIN}\n{render(found)}{_END}{rest.split(_END)[1]}", encoding="utf-8")


_BEGIN, _END = "<!-- begin: benchmarks/comparison_rules.py -->", "<!-- end -->"

if __name__ == "__main__":
    main()
