"""Figures of an evaluation: what they show is what was measured."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from ssdnorm.cli.evaluate_report import write_plots
from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.errors import ErrorAnalysis
from ssdnorm.plots.evaluation import plot_classes, plot_precision_recall
from tests.metrics.random_sets import draw_set


def test_the_curves_shown_are_the_mean_over_classes_at_every_threshold():
    result = evaluate_coco(*draw_set(1))
    lines = plot_precision_recall(result).axes[0].get_lines()
    assert len(lines) == 10
    assert np.mean(lines[0].get_ydata()) == pytest.approx(result.metrics["AP50"])
    assert np.mean([line.get_ydata() for line in lines]) == pytest.approx(result.metrics["AP"])


def test_the_bars_of_the_classes_are_sorted_and_as_long_as_their_ap():
    result = evaluate_coco(*draw_set(1))
    axes = plot_classes(result).axes[0]
    aps = [row["AP"] for row in result.per_class.values()]
    assert [bar.get_width() for bar in axes.containers[1]] == sorted(aps, reverse=True)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == max(result.per_class, key=lambda name: result.per_class[name]["AP"])


def test_of_many_classes_the_best_and_the_worst_are_shown():
    result = evaluate_coco(*draw_set(1, num_classes=60, num_objects=300, num_detections=600))
    figure = plot_classes(result)
    assert len(figure.axes[0].containers[0]) == 40
    assert "classes in between left out" in figure.axes[0].get_title("left")


def test_class_names_are_shown_as_they_are_whatever_they_hold(tmp_path):
    truth, found = draw_set(1)
    names = ["$\\frac{x$", "<b>", "犬 🐕", "a_b^c", "%s", "\\alpha"]
    for category, name in zip(truth["categories"], names, strict=False):
        category["name"] = name
    result = evaluate_coco(truth, found)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analysis = ErrorAnalysis(result)
        write_plots(tmp_path, result, analysis, analysis.breakdown())
    assert {label.get_text() for label in plot_classes(result).axes[0].get_yticklabels()} >= {"$\\frac{x$", "<b>"}


def test_figures_never_import_pyplot_with_its_global_state():
    code = "import sys, ssdnorm.plots.evaluation; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
