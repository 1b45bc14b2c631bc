"""This file is about words: what the numbers of a comparison allow to say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from ssdnorm.compare.notation import p_value, signed_interval, signed_points
from ssdnorm.compare.results import ArmResult, Difference, Run, Verdict

_PUBLISHED_NOISE = "0.14 points of AP over 15 seeds of NVIDIA's SSD300-ResNet50 on COCO"


def sentence_of(
    name: str,
    baseline: str,
    metric: str,
    verdict: Verdict,
    difference: Difference | None,
    runs: Sequence[Run],
    baseline_runs: Sequence[Run],
) -> str:
    """One arm against the baseline, in points of 100.

    Args:
        runs: all runs of the arm with the chosen learning rate.
        baseline_runs: the same of the baseline.
    """
    if verdict == "baseline":
        return f"{name} is the baseline.{_lost(name, runs)}"
    if verdict == "incomplete" or difference is None:
        why = _lost(name, runs) + _lost(baseline, baseline_runs)
        return f"{name}: no comparison with {baseline}.{why or f' The test images hold nothing that {metric} counts.'}"
    paired = difference.paired
    points = f"{signed_points(paired.mean)} points of {metric}"
    if verdict == "one seed":
        return f"{name}: {points} against {baseline} on one seed, which allows no statement."
    interval = f"{points}, 95 % interval {signed_interval(paired.low, paired.high)} over seeds"
    if difference.images is not None:
        interval += f" and {signed_interval(*difference.images)} over test images"
    verdict_in_words = (
        "no evidence of a difference to" if verdict == "no evidence of a difference" else f"{verdict} than"
    )
    p = p_value(difference.p_holm)
    p = p if p.startswith("<") else f"= {p}"
    return f"{name}: {verdict_in_words} {baseline}: {interval}, p {p} after Holm's correction."


def answer_of(arms: Sequence[ArmResult], baseline: str, metric: str, num_seeds: int, seed_noise: float | None) -> str:
    """Two sentences: what was found, and how sure it is."""
    others = [arm for arm in arms if arm.name != baseline]
    found: list[str] = []

    def add(clause: str) -> None:
        found.append(clause if found else clause[0].upper() + clause[1:])

    for verdict in ("better", "worse"):
        members = [arm for arm in others if arm.verdict == verdict]
        if members:
            who = _list([_with_points(arm, metric) for arm in members])
            found.append(f"{who} {'is' if len(members) == 1 else 'are'} {verdict} than {baseline}")
    for verdict, clause in (
        ("no evidence of a difference", f"there is no evidence of a difference to {baseline} for "),
        ("one seed", "one seed allows no statement about "),
    ):
        names = [arm.name for arm in others if arm.verdict == verdict]
        if names:
            add(f"{clause}{_list(names)}")
    diverged = {arm.name: sum(run.status == "diverged" for run in arm.runs if run.lr == arm.lr) for arm in arms}
    found += [f"{name} diverged with {count} of {num_seeds} seeds" for name, count in diverged.items() if count]
    lost = {arm.name for arm in arms if any(run.status != "finished" for run in arm.runs if run.lr == arm.lr)}
    names = [arm.name for arm in others if arm.verdict == "incomplete" and not diverged[arm.name]]
    reasons = {
        f"without every run of {baseline} there is": [name for name in names if baseline in lost],
        "runs are missing:": [name for name in names if baseline not in lost and name in lost],
        f"the test images hold nothing that {metric} counts:": [n for n in names if not {baseline, n} & lost],
    }
    for reason, missing in reasons.items():
        if missing:
            add(f"{reason} no comparison of {_list(missing)}")
    first = "; ".join(found)
    tested = sum(metric in arm.differences and arm.differences[metric].p_holm is not None for arm in others)
    if not tested:
        return f"{first}. Nothing can be ranked without seeds to compare: seeds alone scatter by {_PUBLISHED_NOISE}."
    runs = [run for arm in arms for run in arm.runs if run.lr == arm.lr]
    finished = sum(run.status == "finished" for run in runs)
    seeds = f"{num_seeds} seeds an arm" if finished == len(runs) else f"{finished} of {len(runs)} runs"
    noise = "" if seed_noise is None else f" with a scatter of {100 * seed_noise:.2f} points of {metric}"
    many = f", corrected for {tested} comparisons by Holm's method" if tested > 1 else ""
    return (
        f"{first}. This rests on {seeds}{noise} (published: {_PUBLISHED_NOISE}), paired by seed{many}, and on a "
        "bootstrap over the test images."
    )


def _with_points(arm: ArmResult, metric: str) -> str:
    return f"{arm.name} ({signed_points(arm.differences[metric].paired.mean, 1)} points of {metric})"


def _lost(name: str, runs: Sequence[Run]) -> str:
    """How many runs of an arm have no result, and why; nothing if all have."""
    words = {"diverged": "diverged", "failed": "failed", "missing": "not run"}
    counts = {status: sum(run.status == status for run in runs) for status in words}
    parts = [f"{count} {words[status]}" for status, count in counts.items() if count]
    return f" {name}: of {len(runs)} seeds {_list(parts)}." if parts else ""


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
