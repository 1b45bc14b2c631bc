"""This file is about words: what the numbers of a comparison allow to say, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from ssdnorm.compare.results import ArmResult, Difference, Run, Verdict

_PUBLISHED_NOISE = "0.14 points of AP over 15 seeds of NVIDIA's SSD300-ResNet50 on COCO"


def sentence_of(
    name: str, baseline: str, metric: str, verdict: Verdict, difference: Difference | None, runs: Sequence[Run]
) -> str:
    """One arm against the baseline, in percentage points.

    Args:
        runs: all runs of the arm with the chosen learning rate.
    """
    lost = [run for run in runs if run.status != "finished"]
    loss = f" {_lost(lost, len(runs))}" if lost else ""
    if verdict == "baseline":
        return f"{name} is the baseline.{loss}"
    if difference is None or verdict == "incomplete":
        return f"{name}: no comparison with {baseline}.{loss}"
    paired = difference.paired
    points = f"{100 * paired.mean:+.1f} points of {metric}"
    if verdict == "one seed":
        return f"{name}: {points} against {baseline} on one seed, which allows no statement.{loss}"
    assert paired.low is not None
    assert paired.high is not None
    interval = f"{points} (95 % interval {100 * paired.low:+.1f} to {100 * paired.high:+.1f})"
    if verdict == "no evidence of a difference":
        return f"{name}: no evidence of a difference to {baseline}: {interval}{_why_not(difference)}.{loss}"
    return (
        f"{name} is {verdict} than {baseline}: {interval}, p = {_p(difference.p_holm)} after Holm's correction.{loss}"
    )


def answer_of(arms: Sequence[ArmResult], baseline: str, metric: str, num_seeds: int, seed_noise: float | None) -> str:
    """Two sentences: what was found, and how sure it is."""
    others = [arm for arm in arms if arm.name != baseline]
    groups = [
        ("better than", [arm for arm in others if arm.verdict == "better"]),
        ("worse than", [arm for arm in others if arm.verdict == "worse"]),
    ]
    found = [
        f"{_list([_with_points(arm, metric) for arm in members])} {_are(members)} {word} {baseline}"
        for word, members in groups
        if members
    ]
    unsure = [arm.name for arm in others if arm.verdict == "no evidence of a difference"]
    if unsure:
        found.append(
            f"{'T' if not found else 't'}here is no evidence of a difference to {baseline} for {_list(unsure)}"
        )
    single = [arm.name for arm in others if arm.verdict == "one seed"]
    if single:
        found.append(f"{'O' if not found else 'o'}ne seed allows no statement about {_list(single)}")
    broken = [arm.name for arm in others if arm.verdict == "incomplete"]
    if broken:
        found.append(f"{_list(broken)} cannot be compared, since runs diverged, failed or are missing")
    first = "; ".join(found)
    if num_seeds == 1:
        return f"{first}. With one seed nothing can be ranked: seeds alone scatter by {_PUBLISHED_NOISE}."
    runs = [run for arm in arms for run in arm.runs if run.lr == arm.lr]
    finished = sum(run.status == "finished" for run in runs)
    seeds = f"{num_seeds} seeds an arm" if finished == len(runs) else f"{finished} of {len(runs)} runs"
    noise = "" if seed_noise is None else f" with a scatter of {100 * seed_noise:.2f} points of {metric}"
    many = f", corrected for {len(others)} comparisons by Holm's method" if len(others) > 1 else ""
    return (
        f"{first}. This rests on {seeds}{noise} (published: {_PUBLISHED_NOISE}), paired by seed{many}, and on a "
        "bootstrap over the test images."
    )


def _with_points(arm: ArmResult, metric: str) -> str:
    difference = arm.differences[metric].paired
    return f"{arm.name} ({100 * difference.mean:+.1f} points of {metric})"


def _why_not(difference: Difference) -> str:
    """Why an interval over seeds that excludes zero is not enough."""
    paired, images = difference.paired, difference.images
    assert paired.low is not None
    assert paired.high is not None
    if paired.low <= 0 <= paired.high:
        return ""
    if difference.p_holm is not None and difference.p_holm >= 0.05:
        return f", p = {_p(difference.p_holm)} after Holm's correction"
    assert images is not None
    return f", but {100 * images[0]:+.1f} to {100 * images[1]:+.1f} over test images"


def _lost(lost: Sequence[Run], total: int) -> str:
    words = {"diverged": "diverged", "failed": "failed", "missing": "not run"}
    counts = {status: sum(run.status == status for run in lost) for status in words}
    return f"Of {total} seeds {_list([f'{count} {words[status]}' for status, count in counts.items() if count])}."


def _p(p: float | None) -> str:
    assert p is not None
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _are(members: Sequence[ArmResult]) -> str:
    return "is" if len(members) == 1 else "are"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
