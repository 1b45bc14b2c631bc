"""Plan a comparison without training: what numbers of seeds can show, and how long they take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ssdnorm.compare.formatting import NOTHING, duration, plain_points
from ssdnorm.compare.looks import spent_alpha
from ssdnorm.compare.plan import Plan
from ssdnorm.compare.power import MOST_SEEDS, Outlook
from ssdnorm.compare.rules import ALPHA
from ssdnorm.compare.run_folders import read_report
from ssdnorm.compare.statistics import pooled_std
from ssdnorm.compare.tables import markdown_table

_NUM_SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20)
_DIFFERENCES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)


@dataclass(frozen=True)
class Scatter:
    """How far results scatter."""

    paired_std: float  # standard deviation over seeds of an arm minus the baseline
    images_std: float  # standard error over test images of such a difference
    seconds_per_image: float | None  # of training; None if unknown
    source: str  # in words


def read_scatter(given: str, metric: str) -> Scatter:
    """The scatter from a number, the standard deviation of one arm over seeds, or from an earlier comparison's folder.

    Raises:
        ValueError: neither a number above 0 nor a comparison with two seeds or more.
    """
    try:
        std = float(given)
    except ValueError:
        return _earlier(Path(given), metric)
    if not 0 < std < 1:
        raise ValueError(f"--plan: the standard deviation of {metric} over seeds must be in (0, 1); got {given}")
    source = f"standard deviation over seeds {100 * std:.3g} points, arms independent, test images not accounted for"
    return Scatter(std * math.sqrt(2), 0.0, None, source)


def plan_markdown(plan: Plan, scatter: Scatter, *, num_parallel: int = 1) -> str:
    """Tables: number of seeds → what it shows and costs; difference → seeds that it takes."""
    file = plan.file
    num = len(plan.arms) - 1 + len(file.contrasts)
    levels = dict(zip(file.looks, spent_alpha(file.looks), strict=True)) if file.looks else {}
    choosing = [job.config for job in plan.choosing_jobs(plan.given_rates)]
    rows = []
    for n in levels or _NUM_SEEDS:
        outlook = Outlook(scatter.paired_std, num, scatter.images_std, levels.get(n, ALPHA), file.rule)
        runs, time = choosing + n * [arm.config for arm in plan.arms], "unknown"
        if scatter.seconds_per_image is not None:
            images = sum(config.training.num_images for config in runs)
            time = duration(scatter.seconds_per_image * images / num_parallel)
        row = {"seeds": str(n), "level %": f"{100 * outlook.alpha:.2g}" if levels else NOTHING}
        row["finds"] = plain_points(outlook.detectable(n))
        row["finds two scatters"] = f"{100 * outlook.power(math.sqrt(2) * scatter.paired_std, n):.0f} %"
        row["equal within"] = f"±{plain_points(outlook.equivalence_margin(n))}"
        rows.append(row | {"runs": str(len(runs)), "time": time})
    outlook = Outlook(scatter.paired_std, num, scatter.images_std, rule=file.rule)
    needed = {f"{100 * difference:g}": outlook.seeds_to_decide(difference) for difference in _DIFFERENCES}
    if file.margin is not None:
        needed[f"none, equivalent within ±{100 * file.margin:g}"] = outlook.seeds_to_decide(0.0, file.margin)
    return f"""{len(plan.arms)} arms, {num} comparisons under {file.rule}; {scatter.source}.

{markdown_table(rows)}
{markdown_table([{"true difference": d, "seeds": str(n or f"more than {MOST_SEEDS}")} for d, n in needed.items()])}
In points of {file.metric}. `finds`: the true difference that is called better, `equal within`: the margin \
within which equal arms are called equivalent, each with a probability of 80 %. Two scatters: a difference of \
twice an arm's standard deviation over seeds. Arms are taken as normal, independent and of equal scatter."""


def _earlier(path: Path, metric: str) -> Scatter:
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"--plan: {path}: neither a number nor an earlier comparison's folder")
    earlier = read_report(path)
    found = [arm["differences"][metric] for arm in earlier["arms"] if metric in arm.get("differences", {})]
    std = pooled_std([difference["paired"]["values"] for difference in found])
    if not std:
        raise ValueError(f"--plan: {path}: holds no {metric} of two seeds or more that scatter")
    images = [s for difference in found if (s := difference.get("images_std")) is not None]
    origin = earlier["provenance"]
    seen, lengths = origin.get("training_images"), [origin.get("steps"), origin.get("batch_size")]
    if seen is None and all(isinstance(length, int) for length in lengths):
        seen = origin["num_finished"] * lengths[0] * lengths[1]
    source = f"paired differences over seeds have a standard deviation of {100 * std:.3g} points in {path}"
    source += f", over test images of {100 * median(images):.3g}" if images else ", test images are not accounted for"
    return Scatter(std, median(images) if images else 0.0, origin["seconds"] / seen if seen else None, source)
