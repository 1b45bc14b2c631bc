"""Write a comparison's results as one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ssdnorm.compare import formatting
from ssdnorm.compare.conclusions import RULES_IN_WORDS
from ssdnorm.compare.formatting import amount, duration, in_words
from ssdnorm.compare.pictures import photos_of, shown_runs
from ssdnorm.compare.result_figures import result_figures
from ssdnorm.compare.results import METRICS, Results, Run
from ssdnorm.compare.run_folders import first_with
from ssdnorm.compare.training_figures import evaluated_images, mean_logs, read_logs, scale_rows, training_figures
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.files import write_text
from ssdnorm.plots.colors import HIT, MISSED, WRONG, css_variables
from ssdnorm.plots.style import arm_styles
from ssdnorm.plots.svg import figure_to_svg

_HEAT = 60  # % of the full colour at the highest AP; more would make the numbers hard to read
_LEAST_HIGHEST = 0.05  # AP that gets the full colour at least


def write_report(results: Results, root: Path, test_set: DetectionDataset, output: Path) -> None:
    """Write the report, and its figures to ``figures/`` beside it. The same input gives the same bytes.

    Args:
        root: the comparison's folder, with the run folders below it; what is missing there is left out.
        test_set: the images of the detections, for the pictures.
        output: the file, usually ``report.html``.
    """
    environment = Environment(
        loader=PackageLoader("ssdnorm.compare", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["say"] = formatting
    styles = arm_styles([arm.name for arm in results.arms], results.baseline)
    logs = read_logs(results, root)
    means = mean_logs(logs)
    figures = {**result_figures(results, styles), **training_figures(results, logs, means, styles)}
    drawn = {name: Markup(figure_to_svg(figure, name, alt)) for name, (figure, alt) in figures.items()}
    shown = shown_runs(results, root)
    html = environment.get_template("report.html.j2").render(
        results=results,
        answer=results.answer.partition(" This rests on"),
        palette=css_variables(),
        swatches={name: Markup(style.swatch()) for name, style in styles.items()},
        figures=drawn,
        families={name.partition("-")[0] for name in drawn},
        facts=_facts(results, test_set),
        metrics=[name for name in METRICS if any(name in arm.metrics for arm in results.arms)],
        evaluated_on=evaluated_images(logs),
        scale_rows=scale_rows(means),
        population=_population(results),
        classes=_classes(results),
        photos=photos_of(shown, root, test_set),
        box_colors={"found": HIT, "wrong": WRONG, "missed": MISSED},
        shown=_seeds_in_words(shown),
        lost=[run for arm in results.arms for run in arm.runs if run.status != "finished"],
        failures=any(arm.outcome.num_learnt < arm.outcome.num_runs for arm in results.arms),
        rule=RULES_IN_WORDS[results.rule],
        configs=_configs(results, root),
        limits=limits_of(results),
    )
    write_text(output, html)
    for name, svg in drawn.items():
        write_text(output.parent / "figures" / f"{name}.svg", f"{svg}\n")


def _facts(results: Results, test_set: DetectionDataset) -> dict[str, str]:
    base = results.config.get("base", {})
    train, origin = base.get("data", {}).get("train") or {}, results.provenance
    source = " ".join(str(train[key]) for key in ("format", "root", "split") if train.get(key))
    if train.get("num_images"):
        source += f", {amount(train['num_images'])} images"
    devices = {str(run.result["device"]) for arm in results.arms for run in arm.finished_runs}
    seconds = sum(run.result.get("seconds", 0.0) for arm in results.arms for run in arm.runs)
    num_classes = len(test_set.class_names)
    facts = {
        "arms × seeds": f"{len(results.arms)} × {len(results.seeds)}",
        "trained on": source,
        "tested on": f"{amount(len(test_set))} images, {num_classes} class{'es' if num_classes > 1 else ''}",
        "steps": f"{_range(origin['steps'])} of {_range(origin['batch_size'])} images",
        "device": ", ".join(sorted(devices)),
        "computing time": duration(seconds) if seconds else "",
    }
    return {name: words for name, words in facts.items() if words}


def _range(values: Sequence[int]) -> str:
    return " to ".join(amount(value) for value in dict.fromkeys((min(values), max(values))))


def _population(results: Results) -> list[dict[str, Any]]:
    """Arms with batch norm: the metric with running and with recomputed statistics, by seed."""
    rows = []
    for arm in results.arms:
        running, recomputed = arm.metrics.get(results.metric), arm.population.get(results.metric)
        if running is not None and recomputed is not None:
            pairs = zip(running.values, recomputed.values, strict=False)
            gains = [after - before for before, after in pairs]
            rows.append({"arm": arm.name, "running": running, "recomputed": recomputed, "gains": gains})
    return rows


def _classes(results: Results) -> list[dict[str, Any]]:
    """A row per class in the order of the data, a cell per arm: AP, strength of its colour, and the difference."""
    arms = [arm for arm in results.arms if arm.per_class]
    baseline = next((arm.per_class for arm in arms if arm.name == results.baseline), {})
    highest = max((value for arm in arms for value in arm.per_class.values()), default=0.0)
    highest = max(highest, _LEAST_HIGHEST)
    rows = []
    for name in dict.fromkeys(name for arm in arms for name in arm.per_class):
        cells = []
        for arm in arms:
            value, reference = arm.per_class.get(name), baseline.get(name)
            gap = None if value is None or reference is None or arm.name == results.baseline else value - reference
            cells.append(
                {"arm": arm.name, "value": value, "heat": f"{_HEAT * (value or 0.0) / highest:.0f}%", "gap": gap}
            )
        rows.append({"name": name, "cells": cells})
    return rows


def _seeds_in_words(shown: dict[str, Run]) -> str:
    """The seed that each arm is shown with."""
    seeds = {run.seed for run in shown.values()}
    if len(seeds) == 1:
        return f"all with seed {seeds.pop()}"
    return ", ".join(f"{arm} with seed {run.seed}" for arm, run in shown.items())


def _configs(results: Results, root: Path) -> list[tuple[str, str]]:
    """Title → content: the comparison's config, and the complete config of the baseline's first run."""
    options: Any = {"sort_keys": False, "allow_unicode": True, "default_flow_style": None, "width": 100}
    files = [("The comparison's config", yaml.safe_dump(results.config, **options))]
    baseline = next(arm for arm in results.arms if arm.name == results.baseline)
    if run := first_with("config.yaml", baseline.chosen_runs, root):
        text = (root / run.folder / "config.yaml").read_text(encoding="utf-8")
        files.append((f"Complete config of {baseline.name}, first run", text))
    return files


def limits_of(results: Results) -> list[str]:
    """What the comparison does not show."""
    origin, arms = results.provenance, results.arms
    varied = any(len(origin[key]) > 1 for key in ("steps", "batch_size"))
    one, other = ("", "") if varied else (" one schedule,", ", more steps or another batch size")
    lost = sum(run.status != "finished" for arm in arms for run in arm.runs)
    on_cpu = any(run.result.get("device") == "cpu" for arm in arms for run in arm.finished_runs)
    shared = sorted(set(results.config.get("choosing_seeds", [1000])) & set(results.seeds))
    counts = {arm.name: len(arm.rates) for arm in arms}
    outermost = ", ".join(arm.name for arm in arms if arm.at_edge)
    chosen = max(counts.values()) > 1
    late, differ = results.second_look, len({arm.lr for arm in arms}) > 1
    limits = [
        (late, f"Declared after verdicts were known: {late}. The error may exceed its level."),
        (len(results.seeds) == 1, "One seed cannot separate the effect of an arm from that of the seed."),
        (True, f"One data set,{one} one architecture: other data{other} may change the order."),
        (
            True,
            f"Verdicts are about {results.metric} alone. Intervals of the other metrics are not corrected for multiple "
            "comparisons.",
        ),
        (not chosen, "Every arm was trained with one learning rate; another may suit some arms better."),
        (
            not chosen and differ,
            "The arms' rates differ, and this comparison does not show that each has its best one.",
        ),
        (chosen, "Learning rates were chosen among those listed, on validation images."),
        (
            chosen and shared,
            f"Seeds {in_words(shared)} chose the rates and are compared, too, which favours arms with luck in them.",
        ),
        (len(set(counts.values())) > 1, f"Arms had different numbers of rates to choose from: {in_words(counts)}."),
        (
            outermost,
            f"The chosen rate is the lowest or the highest tried, so a rate beyond it may be better, for {outermost}.",
        ),
        (
            lost,
            f"{lost} run{'s' if lost > 1 else ''} did not finish. Means are over the finished runs, which favours arms "
            "that diverge on hard seeds.",
        ),
        (
            len(origin.get("world_sizes", [])) > 1,
            "Runs had different numbers of devices, so the images of a step differ between them.",
        ),
        (
            len(origin.get("commits", [])) > 1,
            "The runs were made by different commits of this library; they are listed below.",
        ),
        (on_cpu, "Memory on a CPU is that of the whole process, including libraries and data."),
    ]
    return [words for holds, words in limits if holds]
