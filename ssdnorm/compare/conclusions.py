"""What the numbers of a comparison allow to conclude, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ssdnorm.compare.formatting import p_value, signed_interval, signed_points
from ssdnorm.compare.results import ArmResult

_PUBLISHED_NOISE = "0.14 points of AP over 15 seeds of NVIDIA's SSD300-ResNet50 on COCO"


def conclude_arm(arm: ArmResult, baseline: ArmResult, metric: str) -> str:
    """One arm against the baseline, in points of 100."""
    name, difference = arm.name, arm.differences.get(metric)
    if arm.verdict == "baseline":
        return f"{name} is the baseline.{_missing(arm)}"
    if arm.verdict == "incomplete" or difference is None:
        why = _missing(arm) + _missing(baseline)
        return f"{name}: not compared with {baseline.name}.{why or f' {metric} is undefined on the test images.'}"
    paired = difference.paired
    points = f"{signed_points(paired.mean)} points of {metric}"
    if arm.verdict == "one seed":
        return f"{name}: {points} against {baseline.name} with one seed, which allows no conclusion."
    interval = f"{points}, 95 % interval {signed_interval(paired.low, paired.high)} over seeds"
    if difference.images is not None:
        interval += f" and {signed_interval(*difference.images)} over test images"
    found = f"no evidence that it differs from {baseline.name}"
    if arm.verdict in ("better", "worse"):
        found = f"{arm.verdict} than {baseline.name}"
    p = p_value(difference.p_holm)
    p = p if p.startswith("<") else f"= {p}"
    return f"{name}: {found}: {interval}, p {p} after Holm's correction."


def conclude(arms: Sequence[ArmResult], baseline: str, metric: str, num_seeds: int, seed_noise: float | None) -> str:
    """Two sentences: what was found, and how certain it is."""
    clauses = [*_rankings(arms, baseline, metric), *_losses(arms, baseline, metric, num_seeds)]
    found = "; ".join(clauses)
    if found.startswith(("there is no evidence", "one seed allows")):  # a name keeps its case
        found = found[0].upper() + found[1:]
    tested = sum(metric in arm.differences and arm.differences[metric].p_holm is not None for arm in arms)
    if not tested:
        return f"{found}. Ranking arms takes several seeds: seeds alone scatter by {_PUBLISHED_NOISE}."
    finished, runs = sum(len(arm.finished_runs) for arm in arms), sum(len(arm.chosen_runs) for arm in arms)
    seeds = f"{num_seeds} seeds per arm" if finished == runs else f"{finished} of {runs} runs"
    noise = "" if seed_noise is None else f" with a standard deviation of {100 * seed_noise:.2f} points of {metric}"
    correction = f", corrected for {tested} comparisons by Holm's method" if tested > 1 else ""
    return (
        f"{found}. This rests on {seeds}{noise} (published: {_PUBLISHED_NOISE}), paired by seed{correction}, and on a "
        "bootstrap over the test images."
    )


def _rankings(arms: Sequence[ArmResult], baseline: str, metric: str) -> list[str]:
    """A clause per verdict of a complete comparison."""
    clauses = []
    for verdict in ("better", "worse"):
        ranked = [arm for arm in arms if arm.verdict == verdict]
        names = [f"{a.name} ({signed_points(a.differences[metric].paired.mean, 1)} points of {metric})" for a in ranked]
        if names:
            clauses.append(f"{_list(names)} {'is' if len(names) == 1 else 'are'} {verdict} than {baseline}")
    if names := [arm.name for arm in arms if arm.verdict == "no evidence of a difference"]:
        differ = "differs" if len(names) == 1 else "differ"
        clauses.append(f"there is no evidence that {_list(names, 'or')} {differ} from {baseline}")
    if names := [arm.name for arm in arms if arm.verdict == "one seed"]:
        clauses.append(f"one seed allows no conclusion about {_list(names)}")
    return clauses


def _losses(arms: Sequence[ArmResult], baseline: str, metric: str, num_seeds: int) -> list[str]:
    """A clause per reason for which arms could not be compared."""
    diverged = {arm.name: sum(run.status == "diverged" for run in arm.chosen_runs) for arm in arms}
    lost = {arm.name for arm in arms if arm.finished_runs != arm.chosen_runs}
    clauses = [f"{name} diverged with {count} of {num_seeds} seeds" for name, count in diverged.items() if count]
    names = [arm.name for arm in arms if arm.verdict == "incomplete" and not diverged[arm.name]]
    reasons = {
        f"runs of {baseline} are missing": [name for name in names if baseline in lost],
        "runs are missing": [name for name in names if baseline not in lost and name in lost],
        f"{metric} is undefined on the test images": [name for name in names if not {baseline, name} & lost],
    }
    for reason, missing in reasons.items():
        if missing:
            clauses.append(f"{_list(missing)} {'was' if len(missing) == 1 else 'were'} not compared: {reason}")
    return clauses


def _missing(arm: ArmResult) -> str:
    """How many runs of an arm have no result, and why; empty if all have one."""
    words = {"diverged": "diverged", "failed": "failed", "missing": "did not run"}
    counts: Counter[str] = Counter(run.status for run in arm.chosen_runs)
    parts = [f"{counts[status]} {said}" for status, said in words.items() if counts[status]]
    return f" {arm.name}: of {len(arm.chosen_runs)} seeds {_list(parts)}." if parts else ""


def _list(names: Sequence[str], last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
