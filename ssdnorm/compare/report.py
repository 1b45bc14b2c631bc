"""This file is about the report: a comparison's results as one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from ssdnorm.compare import notation
from ssdnorm.compare.report_curves import (
    Logs,
    plot_dead_channels,
    plot_evaluations,
    plot_gradients,
    plot_losses,
    plot_scales,
    plot_taps,
    read_logs,
    scale_rows,
)
from ssdnorm.compare.report_figures import Styles, plot_costs, plot_differences, plot_rates, plot_seeds
from ssdnorm.compare.report_files import write_figures
from ssdnorm.compare.report_pictures import class_colours, photos_of, seeds_shown
from ssdnorm.compare.results import METRICS, ArmResult, Results
from ssdnorm.compare.svg import PALETTE, arm_styles
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.files import write_text

_HEAT = 60  # % of the full colour at the highest AP; more would make the numbers hard to read
_LEAST_HIGHEST = 0.05  # AP; where all are lower, none gets the fullest colour


def write_report(results: Results, root: Path, test_set: DetectionDataset, output: Path) -> None:
    """Write the report, and its figures to ``figures/`` beside it. The same input gives the same bytes.

    Sections of which nothing is known are left out.

    Args:
        root: the comparison's folder; runs lie below it and may hold ``metrics.csv``, ``diagnostics.csv``,
            ``detections.json`` and ``config.yaml``.
        test_set: what the detections were made on, for the pictures.
        output: the file, usually ``report.html``.
    """
    environment = Environment(
        loader=PackageLoader("ssdnorm.compare", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update({name: getattr(notation, name) for name in _WRITTEN})
    styles = arm_styles([arm.name for arm in results.arms], results.baseline)
    logs = read_logs(results, root)
    photos = photos_of(results, root, test_set)
    html = environment.get_template("report.html.j2").render(
        results=results,
        palette=PALETTE,
        swatches={name: style.swatch() for name, style in styles.items()},
        facts=_facts(results, test_set),
        metrics=[name for name in METRICS if any(_known(arm, name) for arm in results.arms)],
        seeds=plot_seeds(results, styles) if any(results.metric in arm.metrics for arm in results.arms) else None,
        differences=plot_differences(results, styles)
        if any(results.metric in arm.differences for arm in results.arms)
        else None,
        evaluations=plot_evaluations(results, logs, styles),
        losses=plot_losses(logs, styles),
        rates=plot_rates(results, styles) if any(len(arm.rates) > 1 for arm in results.arms) else None,
        why=_why(results, logs, styles),
        classes=_classes(results),
        photos=photos,
        class_colours=class_colours(photos),
        shown=_seeds_in_words(seeds_shown(results, root)),
        costs=plot_costs(results, styles),
        lost=[run for arm in results.arms for run in arm.runs if run.status != "finished"],
        configs=_configs(results, root),
        limits=_limits(results),
    )
    write_text(output, html)
    write_figures(html, styles, output.parent / "figures")


_WRITTEN = (
    "NOTHING", "amount", "breakable", "duration", "in_words", "interval", "p_value", "points", "rate",
    "signed_interval", "signed_points",
)  # fmt: skip


def _facts(results: Results, test_set: DetectionDataset) -> list[tuple[str, str]]:
    """What the answer stands on: name → words."""
    base = results.config.get("base", {})
    training, data = base.get("training", {}), base.get("data", {})
    train = data.get("train") or {}
    source = " ".join(str(train[key]) for key in ("format", "root", "split") if train.get(key))
    runs = [run for arm in results.arms for run in arm.chosen_runs]
    devices = sorted({str(run.result["device"]) for run in runs if run.result.get("device")})
    seconds = sum(run.result.get("seconds", 0.0) for arm in results.arms for run in arm.runs)
    num_classes = len(test_set.class_names)
    number = notation.amount
    if train.get("num_images"):
        source += f", {number(train['num_images'])} images"
    facts = [
        ("arms × seeds", f"{len(results.arms)} × {len(results.seeds)}"),
        ("trained on", source),
        ("tested on", f"{number(len(test_set))} images, {num_classes} class{'es' if num_classes > 1 else ''}"),
        ("steps", f"{number(training['max_steps'])} of {training.get('batch_size', '?')} images" if training else ""),
        ("device", ", ".join(devices)),
        ("computing time", notation.duration(seconds) if seconds else ""),
    ]
    return [(name, words) for name, words in facts if words]


def _known(arm: ArmResult, metric: str) -> bool:
    return metric in arm.metrics and arm.metrics[metric].mean >= 0


def _why(results: Results, logs: Logs, styles: Styles) -> dict[str, Any]:
    """Figures and rows that may explain the numbers; only the parts that there is something for."""
    parts = {
        "rms": plot_taps(logs, styles, "rms", "RMS of the values"),
        "lengths": plot_taps(logs, styles, "length", "L2 length over channels"),
        "scales": plot_scales(logs, styles),
        "scale_rows": scale_rows(logs),
        "gradients": plot_gradients(logs, styles),
        "dead": plot_dead_channels(logs, styles),
        "population": _population(results),
    }
    return {name: part for name, part in parts.items() if part}


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
    """A row a class, in the order of the data: a cell an arm with AP, how full its colour is, and the difference."""
    arms = [arm for arm in results.arms if arm.per_class]
    baseline = next((arm.per_class for arm in arms if arm.name == results.baseline), {})
    highest = max((value for arm in arms for value in arm.per_class.values()), default=0.0)
    highest = max(highest, _LEAST_HIGHEST)
    rows = []
    for name in dict.fromkeys(name for arm in arms for name in arm.per_class):
        cells = []
        for arm in arms:
            value, begin = arm.per_class.get(name), baseline.get(name)
            heat = 0.0 if value is None else _HEAT * max(value, 0.0) / highest
            known = value is not None and begin is not None and arm.name != results.baseline
            gap = value - begin if known and value is not None and begin is not None else None
            cells.append({"arm": arm.name, "value": value, "heat": f"{heat:.0f}%", "gap": gap})
        rows.append({"name": name, "cells": cells})
    return rows


def _seeds_in_words(shown: Mapping[str, int]) -> str:
    """Which seed each arm is shown with."""
    seeds = sorted(set(shown.values()))
    if len(seeds) == 1:
        return f"all with seed {seeds[0]}"
    return ", ".join(f"{arm} with seed {seed}" for arm, seed in shown.items())


def _configs(results: Results, root: Path) -> list[tuple[str, str]]:
    """Config files to read in the report: the comparison's own, and the baseline's first run's, complete."""
    files = [("The comparison's config", _yaml(results.config))] if results.config else []
    for arm in results.arms:
        paths = [root / run.folder / "config.yaml" for run in arm.runs if run.lr == arm.lr]
        path = next((path for path in paths if path.is_file()), None)
        if arm.name == results.baseline and path is not None:
            files.append((f"Complete config of {arm.name}, first run", path.read_text(encoding="utf-8")))
    return files


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)


def _limits(results: Results) -> list[str]:
    """What the comparison does not show."""
    num_seeds = len(results.seeds)
    lost = sum(run.status != "finished" for arm in results.arms for run in arm.runs)
    metric = results.metric
    limits = [
        "One data set, one schedule, one architecture: with other data, more steps or other batch sizes the order may "
        "be another one.",
        f"Verdicts are about {metric} alone. Intervals of the other metrics are there to look at; they are not "
        "corrected for being many.",
    ]
    if num_seeds == 1:
        limits.insert(0, "One seed: nothing here tells an arm's merit from its luck.")
    elif num_seeds < 5:
        limits.insert(0, f"{_number(num_seeds)} seeds make wide intervals: small differences cannot be found.")
    limits += _rate_limits(results)
    if lost:
        limits.append(
            f"{lost} run{'s' if lost > 1 else ''} did not finish; means are over those that did, which flatters an arm "
            "that diverges on hard seeds."
        )
    if len(results.provenance.get("world_sizes", [])) > 1:
        limits.append("Runs had different numbers of devices, so the images of a step differ between them.")
    if len(results.provenance.get("commits", [])) > 1:
        limits.append("The runs were made by different commits of this library; they are listed below.")
    if any(run.result.get("device") == "cpu" for arm in results.arms for run in arm.chosen_runs):
        limits.append("Memory on a CPU is that of the whole process, with libraries and data.")
    return limits


def _rate_limits(results: Results) -> list[str]:
    """What the choice of learning rates leaves open."""
    arms = results.arms
    if all(len(arm.rates) <= 1 for arm in arms):
        limits = ["Every arm was trained with one learning rate; another might have suited some arm better."]
        if len({arm.lr for arm in arms}) > 1:
            limits.append("The arms' rates differ, and nothing in this comparison says that each has its best one.")
        return limits
    limits = [
        "Learning rates were chosen among those listed, on validation images with the first seed; nothing else was "
        "tuned."
    ]
    tried = {arm.name: sorted(rate.lr for rate in arm.rates) for arm in arms}
    outermost = [arm.name for arm in arms if len(arm.rates) > 1 and arm.lr in (tried[arm.name][0], tried[arm.name][-1])]
    if outermost:
        limits.append(
            "The chosen rate is the lowest or the highest that was tried, so that one beyond might be better, for "
            f"{', '.join(outermost)}."
        )
    return limits


def _number(number: int) -> str:
    return {2: "Two", 3: "Three", 4: "Four"}.get(number, str(number))
