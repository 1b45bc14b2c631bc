"""Make the README's table of answers, and look a second time at the comparisons that were judged by an older rule.

`python benchmarks/published_comparisons.py` reads docs/results/*/results.csv (of newer ones results.json, which holds
the declared rule's verdicts) and writes docs/results/second_look.md and the README's table.
In the second look the error over test images comes from the width of the published intervals, in table.md: the
detections are not kept.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ssdnorm.compare.differences import Judgement, judge
from ssdnorm.compare.formatting import p_value, plain_points, signed_interval, signed_points
from ssdnorm.compare.plan import Comparison
from ssdnorm.compare.results import Difference
from ssdnorm.compare.rules import RuleName
from ssdnorm.compare.statistics import mean_with_interval
from ssdnorm.files import write_text

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parents[1] / "docs" / "results"
NUM_IMAGES = {"compare_bccd": 72, "compare_bccd_pretrained": 72, "compare_playing_cards_scratch": 67}
_QUESTIONS = {  # (arm or contrast, comparison) → the README's question, in its order
    ("batch_norm", "compare_playing_cards_scratch"): "Batch norm instead of L2Norm, from scratch?",
    ("batch_norm", "compare_l2_norm"): "… from ImageNet weights, 400 steps?",
    ("l2_norm with batch norm", "compare_l2_norm"): "L2Norm in addition to batch norm, from ImageNet weights?",
    ("group_norm", "compare_playing_cards_scratch"): "Group norm instead of L2Norm, from scratch?",
    ("batch norm over group norm at 2", "compare_batch_size"): "Batch norm instead of group norm, batches of 2?",
    ("none", "compare_playing_cards_scratch"): "No norm instead of L2Norm, from scratch?",
    ("none", "compare_l2_norm"): "… from ImageNet weights, 400 steps?",
    ("none at the low rate", "compare_start"): "… the first 100 of them, clipped, without warm-up?",
    ("start_1", "compare_l2_norm_scale"): "L2Norm that starts at 1 instead of 20?",
    ("batch_norm_dropout", "compare_dropout"): "Dropout in fc6 and fc7, with batch norm, from scratch?",
    ("bf16", "compare_precision"): "bf16 instead of float32, from scratch?",
}
_BEGIN, _END = "<!-- begin: benchmarks/published_comparisons.py -->\n", "<!-- end -->"
_NORMAL_WIDTH = 2 * 1.96  # of a 95 % interval, in standard errors


def read_differences(folder: Path, baseline: str = "l2_norm") -> dict[str, Difference]:
    """Arm → difference of AP to the baseline by seed, with the error over test images of the published table."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["chosen"] == "1" and row["status"] == "finished":
                values[row["arm"]][int(row["seed"])] = float(row["AP"])
    lines = [line.split("|")[1:-1] for line in (folder / "table.md").read_text(encoding="utf-8").splitlines()]
    place = [cell.strip() for cell in lines[0]].index("over images")
    found = {}
    for arm in values.keys() - {baseline}:
        cell = next(line[place] for line in lines if line and line[0].strip() == arm)
        low, high = (float(n) / 100 for n in re.findall(r"[+-]?\d+\.\d+", cell.replace("−", "-")))
        gaps = [values[arm][seed] - theirs for seed, theirs in values[baseline].items() if seed in values[arm]]
        found[arm] = Difference(mean_with_interval(gaps), (low, high), (high - low) / _NORMAL_WIDTH)
    return {arm: found[arm] for arm in values if arm in found}


def judged(differences: dict[str, Difference], rule: RuleName, num_images: int) -> Judgement:
    """The verdicts of a rule; the rule declared then takes the error over seeds alone."""
    file = Comparison.model_construct(rule=rule, baseline="l2_norm", metric="AP")
    taken = differences if rule == "guarded_t" else {arm: Difference(d.paired) for arm, d in differences.items()}
    return judge(file, {arm: (d, [(arm, "l2_norm")]) for arm, d in taken.items()}, num_images)


def page() -> str:
    """Both assemblies of all published comparisons as Markdown."""
    lines = [
        "# The published comparisons under today's rule: a second look",
        "",
        "Made by `python benchmarks/published_comparisons.py` from the runs in each `results.csv`. *Declared* is the",
        "rule that the comparisons were run under: paired t-tests with Holm's correction over seeds; the interval over",
        "test images, which had to agree, does so with every claim. *Second look* is the guarded t, named when these",
        "results were known: its verdicts confirm nothing. Its error over test images is that of the published",
        "intervals, their width over 3.92. Points of AP, arm minus l2_norm; *seeds*: would decide: in 80 % of cases,",
        "if the difference seen is the true one.",
    ]
    for name, num_images in NUM_IMAGES.items():
        differences = read_differences(RESULTS / name)
        old, new = (judged(differences, rule, num_images) for rule in ("paired_t_holm", "guarded_t"))
        assert new.detectable is not None
        lines += [
            "",
            f"## [{name}]({name}/README.md)",
            "",
            f"These seeds and images find a true difference of {plain_points(new.detectable)} points in 80 % of cases.",
            "",
            "| arm | difference | p (Holm) | declared | for all comparisons | p | second look | margin | seeds |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for arm, difference in differences.items():
            first, second, paired = old.findings[arm], new.findings[arm], difference.paired
            gap = f"{signed_points(paired.mean)} {signed_interval(paired.low, paired.high)}"
            then = f"{p_value(first.p)} | {first.verdict}"
            now = f"{signed_interval(second.low, second.high)} | {p_value(second.p)} | {second.verdict}"
            still = "– | –"
            if second.verdict == "undecided":
                seeds = "more than 200" if second.more_seeds is None else f"{second.more_seeds} more"
                still = f"±{plain_points(second.smallest_margin)} | {seeds}"
            lines.append(f"| {arm} | {gap} | {then} | {now} | {still} |")
    return "\n".join(lines).replace("| <", "| &lt;") + "\n"


def answer(name: str, comparison: str) -> tuple[str, str]:
    """The declared rule's verdict on an arm or a contrast, and its difference with its interval, of AP or as said."""
    metric, file = "AP", RESULTS / comparison / "results.json"
    if file.exists():
        results = json.loads(file.read_text(encoding="utf-8"))
        metric = results["metric"]
        for arm in results["arms"]:
            arm["difference"] = arm["differences"].get(metric)
        found = next(each for each in (*results["arms"], *results["contrasts"]) if each["name"] == name)
        difference, verdict = found["difference"], found["finding"]["verdict"]
        mean, low, high = difference["paired"]["mean"], difference["low"], difference["high"]
    else:
        differences = read_differences(RESULTS / comparison)
        verdict = judged(differences, "paired_t_holm", NUM_IMAGES[comparison]).findings[name].verdict
        paired = differences[name].paired
        mean, low, high = paired.mean, paired.low, paired.high
    of_metric = "" if metric == "AP" else f" of {metric}"
    return verdict, f"{signed_points(mean)} {signed_interval(low, high)}{of_metric}"


def answers() -> str:
    """The README's table: question, declared verdict, difference of AP with its interval, page."""
    lines = ["| question | answer | points of AP, 95 % interval | page |", "|---|---|---|---|"]
    for (name, comparison), question in _QUESTIONS.items():
        verdict, gap = answer(name, comparison)
        link = f"[{comparison.removeprefix('compare_')}](docs/results/{comparison}/README.md)"
        lines.append(f"| {question} | {verdict} | {gap} | {link} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the page and the README's table."""
    write_text(RESULTS / "second_look.md", page())
    before, begin, rest = README.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    write_text(README, f"{before}{begin}{answers()}{end}{after}")


if __name__ == "__main__":
    main()
