"""What the numbers of a comparison allow to conclude, in sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from ssdnorm.compare.formatting import p_value, plain_points, signed_interval, signed_points
from ssdnorm.compare.power import MOST_SEEDS
from ssdnorm.compare.results import ArmResult, Contrast, Difference, Finding, Results

RULES_IN_WORDS = {
    "guarded_t": "t-tests paired by seed with a guarded error, calibrated for few seeds",
    "paired_t_holm": "paired t-tests with Holm's correction",
}


def conclude(results: Results) -> str:
    """The answer: a clause per verdict, then how certain it is."""
    found = "; ".join([*_verdicts(results), *_losses(results)]) or "no arm could be compared"
    if found.startswith(("one seed", "no arm", "for ")):  # a name keeps its case
        found = found[0].upper() + found[1:]
    judged = [arm for arm in results.arms if arm.finding]
    if not judged:
        return f"{found}. Telling arms apart takes two seeds or more."
    finished = sum(len(arm.finished_runs) for arm in results.arms)
    runs = sum(len(arm.chosen_runs) for arm in results.arms)
    seeds = f"{len(results.seeds)} seeds per arm" if finished == runs else f"{finished} of {runs} runs"
    words = f"{found}. This rests on {seeds}"
    if results.detectable is not None:
        points = plain_points(results.detectable)
        words += f", which find a true difference of {points} points in 80 % of such comparisons"
    images = any(arm.differences[results.metric].images_std is not None for arm in judged)
    words += "; the error is over seeds"
    words += " and test images." if images else "; other test images are not accounted for."
    if results.looks:
        look, number = results.looks.index(len(results.seeds)) + 1, len(results.looks)
        words += f" Look {look} of {number} declared, at a level of {100 * results.level:.2g} %."
    if results.second_look:
        words += f" Second look: {results.second_look} declared after verdicts were known."
    return words


def conclude_arm(arm: ArmResult, results: Results) -> str:
    """One arm against the baseline, in points of 100."""
    name, baseline = arm.name, results.baseline
    if arm.verdict == "baseline":
        return f"{name} is the baseline.{_failed(arm)}"
    difference = arm.differences.get(results.metric)
    if arm.verdict == "incomplete" or difference is None:
        theirs = next(other for other in results.arms if other.name == baseline)
        why = _failed(arm) + _failed(theirs)
        return f"{name}: not compared with {baseline}.{why or f' {results.metric} is undefined on the test images.'}"
    if arm.finding is None:
        points = f"{signed_points(difference.paired.mean)} points of {results.metric}"
        return f"{name}: {points} against {baseline} with one seed, which allows no conclusion.{_failed(arm)}"
    words = _between(name, baseline, arm.finding, results)
    return f"{words}: {_found(difference, arm.finding, results)}{_failed(arm)}"


def conclude_contrast(contrast: Contrast, results: Results) -> str:
    """A contrast of two arms, or of two differences."""
    (a, b), *rest = contrast.pairs
    finding = contrast.finding
    if contrast.difference is None or finding is None:
        return f"{contrast.name}: not compared; it takes two seeds or more of all its arms."
    words = _between(a, b, finding, results)
    for c, d in rest:
        first, second = f"from {b} to {a}", f"from {d} to {c}"
        words = {
            "better": f"the step {first} gains more than the step {second}",
            "worse": f"the step {first} gains less than the step {second}",
            "equivalent": f"the steps {first} and {second} gain equally{_within(results, finding)}",
        }.get(finding.verdict, f"whether the steps {first} and {second} gain differently is undecided")
    return f"{contrast.name}: {words}: {_found(contrast.difference, finding, results)}"


def more_seeds(finding: Finding) -> str:
    """How many seeds would decide."""
    if finding.more_seeds is None:
        return f"more than {MOST_SEEDS} seeds would be needed"
    return f"{finding.more_seeds} more seed{'s' if finding.more_seeds != 1 else ''} would decide"


def _between(a: str, b: str, finding: Finding, results: Results) -> str:
    if finding.verdict in ("better", "worse"):
        return f"{a} is {finding.verdict} than {b}"
    within = _within(results, finding)
    return f"{a} is equivalent to {b}{within}" if finding.verdict == "equivalent" else f"{a} against {b} is undecided"


def _found(difference: Difference, finding: Finding, results: Results) -> str:
    """Value, interval, p, and what is still open."""
    if finding.smallest_margin == 0:
        return "the difference is exactly 0 with every seed."
    over = "seeds and test images" if difference.images_std is not None else "seeds"
    words = (
        f"{signed_points(difference.paired.mean)} points of {results.metric}, "
        f"{signed_interval(finding.low, finding.high)} over {over} for all comparisons together"
    )
    words += f", p {p if (p := p_value(finding.p)).startswith('<') else f'= {p}'}."
    if finding.verdict == "undecided":
        words += f" If this is the true difference, {more_seeds(finding)}."
        words += f" Equivalence within ±{plain_points(finding.smallest_margin)} points could be claimed."
    return words


def _within(results: Results, finding: Finding) -> str:
    return (
        "" if results.margin is None or finding.smallest_margin == 0 else f" within ±{100 * results.margin:.3g} points"
    )


def _verdicts(results: Results) -> list[str]:
    clauses, metric, baseline = [], results.metric, results.baseline
    by_verdict: dict[str, list[ArmResult]] = defaultdict(list)
    for arm in results.arms:
        by_verdict[arm.verdict].append(arm)
    for verdict in ("better", "worse"):
        arms = by_verdict[verdict]
        gaps = [f"{plain_points(abs(arm.differences[metric].paired.mean), 1)} points" for arm in arms]
        named = [f"{arm.name} (by {gap})" for arm, gap in zip(arms, gaps, strict=True)]
        if len(arms) == 1:
            clauses.append(f"{arms[0].name} is {verdict} than {baseline} by {gaps[0]} of {metric}")
        elif arms:
            clauses.append(f"{_list(named)} are {verdict} than {baseline} in {metric}")
    if arms := by_verdict["equivalent"]:
        findings = [arm.finding for arm in arms if arm.finding]
        within = _within(results, max(findings, key=lambda f: f.smallest_margin))
        clauses.append(
            f"{_list([a.name for a in arms])} {'is' if len(arms) == 1 else 'are'} equivalent to {baseline}{within}"
        )
    groups: dict[str, list[str]] = {}
    for arm in by_verdict["undecided"]:
        if arm.finding:
            groups.setdefault(more_seeds(arm.finding), []).append(arm.name)
    clauses += [f"for {_list(names)} {seeds}" for seeds, names in groups.items()]
    if arms := by_verdict["one seed"]:
        clauses.append(f"one seed allows no conclusion about {_list([a.name for a in arms])}")
    return clauses


def _losses(results: Results) -> list[str]:
    """A clause per way in which runs failed, and per reason for which arms could not be compared."""
    groups: dict[str, list[str]] = {}
    for arm in results.arms:
        outcome = arm.outcome
        dull = outcome.num_runs - outcome.num_diverged - outcome.num_learnt
        for words, count in (("diverged", outcome.num_diverged), ("did not learn", dull)):
            if count:
                groups.setdefault(f"{words} with {count} of {len(results.seeds)} seeds", []).append(arm.name)
    lost = {arm.name for arm in results.arms if any(r.status in ("failed", "missing") for r in arm.chosen_runs)}
    barren = {arm.name for arm in results.arms if not arm.finished_runs}
    for arm in (arm for arm in results.arms if arm.verdict == "incomplete"):
        both = {arm.name, results.baseline}
        if lost & both:
            of_baseline = f" of {results.baseline}" if results.baseline in lost else ""
            groups.setdefault(f"not compared: runs{of_baseline} are missing", []).append(arm.name)
        elif not barren & both:
            why = f"not compared: {results.metric} is undefined on the test images"
            groups.setdefault(why, []).append(arm.name)
    return [
        f"{_list(names)} {'' if not words.startswith('not') else 'was ' if len(names) == 1 else 'were '}{words}"
        for words, names in groups.items()
    ]


def _failed(arm: ArmResult) -> str:
    """How many runs of an arm have no result, or did not learn; empty if all did."""
    ended = Counter(run.status for run in arm.chosen_runs)
    counts = {
        "diverged": ended["diverged"],
        "did not learn": ended["finished"] - arm.outcome.num_learnt,
        "failed": ended["failed"],
        "did not run": ended["missing"],
    }
    parts = [f"{count} {words}" for words, count in counts.items() if count]
    return f" {arm.name}: of {len(arm.chosen_runs)} seeds {_list(parts)}." if parts else ""


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
