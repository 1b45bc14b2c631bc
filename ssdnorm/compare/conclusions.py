"""What the numbers of a comparison allow to conclude, in sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import get_args

from ssdnorm.compare.formatting import p_value, plain_points, signed_interval, signed_points
from ssdnorm.compare.power import MOST_SEEDS
from ssdnorm.compare.results import ArmResult, Contrast, Difference, Finding, Results, Verdict

RULES_IN_WORDS = {
    "guarded_t": "t-tests paired by seed with a guarded error, calibrated for few seeds",
    "paired_t_holm": "paired t-tests with Holm's correction",
}
_VERDICTS = {  # on two arms; on two steps, each from one arm to another
    "better": ("{a} is better than {b}", "the step {a} gains more than the step {b}"),
    "worse": ("{a} is worse than {b}", "the step {a} gains less than the step {b}"),
    "equivalent": ("{a} is equivalent to {b}{within}", "the steps {a} and {b} gain equally{within}"),
    "undecided": ("{a} against {b} is undecided", "whether the steps {a} and {b} gain differently is undecided"),
}


def conclude(results: Results) -> str:
    """The answer: a clause per verdict, then how certain it is."""
    found = "; ".join(_clauses(results)) or "no arm could be compared"
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
    return _sentence([(name, baseline)], difference, arm.finding, results) + _failed(arm)


def conclude_contrast(contrast: Contrast, results: Results) -> str:
    """A contrast of two arms, or of two differences."""
    if contrast.difference is None or contrast.finding is None:
        return f"{contrast.name}: not compared; it takes two seeds or more of all its arms."
    return f"{contrast.name}: {_sentence(contrast.pairs, contrast.difference, contrast.finding, results)}"


def _sentence(pairs: Sequence[tuple[str, str]], difference: Difference, finding: Finding, results: Results) -> str:
    """The verdict, value, interval, p, and what is still open."""
    a, b = pairs[0] if len(pairs) == 1 else (f"from {minus} to {plus}" for plus, minus in pairs)
    words = _VERDICTS[finding.verdict][len(pairs) - 1].format(a=a, b=b, within=_within(results, finding))
    if finding.smallest_margin == 0:
        return f"{words}: the difference is exactly 0 with every seed."
    over = "seeds and test images" if difference.images_std is not None else "seeds"
    words += f": {signed_points(difference.paired.mean)} points of {results.metric}"
    words += f", {signed_interval(finding.low, finding.high)} over {over} for all comparisons together"
    words += f", p {p if (p := p_value(finding.p)).startswith('<') else f'= {p}'}."
    if finding.verdict == "undecided":
        words += f" If this is the true difference, {_more_seeds(finding)}."
        words += f" Equivalence within ±{plain_points(finding.smallest_margin)} points could be claimed."
    return words


def _more_seeds(finding: Finding) -> str:
    if finding.more_seeds is None:
        return f"more than {MOST_SEEDS} seeds would be needed"
    return f"{finding.more_seeds} more seed{'s' if finding.more_seeds != 1 else ''} would decide"


def _within(results: Results, finding: Finding) -> str:
    if results.margin is None or finding.smallest_margin == 0:
        return ""
    return f" within ±{100 * results.margin:.3g} points"


def _clauses(results: Results) -> list[str]:
    """One per verdict, per number of seeds that would decide, and per way in which runs failed."""
    metric, baseline, num_seeds = results.metric, results.baseline, len(results.seeds)
    by_verdict = {verdict: [arm for arm in results.arms if arm.verdict == verdict] for verdict in get_args(Verdict)}
    clauses: list[str] = []
    for verdict in ("better", "worse"):
        gaps = [plain_points(abs(arm.differences[metric].paired.mean), 1) for arm in by_verdict[verdict]]
        named = [f"{arm.name} (by {gap} points)" for arm, gap in zip(by_verdict[verdict], gaps, strict=True)]
        if len(gaps) == 1:
            clauses.append(
                f"{by_verdict[verdict][0].name} is {verdict} than {baseline} by {gaps[0]} points of {metric}"
            )
        elif gaps:
            clauses.append(f"{_list(named)} are {verdict} than {baseline} in {metric}")

    groups: dict[tuple[str, tuple[str, str], str], list[str]] = defaultdict(list)  # words, verb, words → names between
    equal = [arm.finding for arm in by_verdict["equivalent"] if arm.finding]
    for arm in by_verdict["equivalent"]:
        within = _within(results, max(equal, key=lambda finding: finding.smallest_margin))
        groups["", ("is", "are"), f"equivalent to {baseline}{within}"].append(arm.name)
    for arm in by_verdict["undecided"]:
        if arm.finding:
            groups["for", ("", ""), _more_seeds(arm.finding)].append(arm.name)
    for arm in by_verdict["one seed"]:
        groups["one seed allows no conclusion about", ("", ""), ""].append(arm.name)
    for arm in results.arms:
        outcome = arm.outcome
        dull = outcome.num_runs - outcome.num_diverged - outcome.num_learnt
        for words, count in (("diverged", outcome.num_diverged), ("did not learn", dull)):
            if count:
                groups["", ("", ""), f"{words} with {count} of {num_seeds} seeds"].append(arm.name)
    lost = {arm.name for arm in results.arms if any(r.status in ("failed", "missing") for r in arm.chosen_runs)}
    barren = {arm.name for arm in results.arms if not arm.finished_runs}
    for arm in by_verdict["incomplete"]:
        why = f"{metric} is undefined on the test images"
        if lost & {arm.name, baseline}:
            why = f"runs{f' of {baseline}' if baseline in lost else ''} are missing"
        elif barren & {arm.name, baseline}:
            continue  # told already
        groups["", ("was", "were"), f"not compared: {why}"].append(arm.name)
    for (before, verb, after), names in groups.items():
        clauses.append(" ".join(filter(None, (before, _list(names), verb[len(names) > 1], after))))
    return clauses


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
