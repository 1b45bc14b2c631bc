"""Growth is fitted where it shows, and shown as it was fitted."""

import doctest
import time

import numpy as np
import pytest
import torch

from benchmarks import growth
from benchmarks.growth import Curve, fitted_exponent, growth_figure, measure
from benchmarks.table import Goal, Settings, Table

SIZES = (1, 2, 4, 8, 16, 32)


def test_the_example_runs():
    assert doctest.testmod(growth).failed == 0


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_a_power_law_has_its_power_whatever_its_unit(power):
    assert fitted_exponent(SIZES, [7e-3 * size**power for size in SIZES]) == pytest.approx(power, abs=1e-9)


def test_a_fixed_cost_does_not_hide_quadratic_growth():
    seconds = [20 + size**2 for size in SIZES]
    assert fitted_exponent(SIZES, seconds) > 1.5
    everywhere, _ = np.polyfit(np.log(SIZES), np.log(seconds), 1)
    assert everywhere < 1.2  # what a fit over all sizes would say


def test_a_quadratic_part_misses_its_goal_and_a_linear_one_meets_it(monkeypatch):
    def work(size):  # vectors of `size` thousand numbers, summed once or `size` times
        return lambda: [torch.ones(1000 * size).sum() for _ in range(4)]

    def quadratic(size):
        return lambda: [torch.ones(1000 * size).sum() for _ in range(size)]

    curves = [Curve("once", "size", (8, 16, 32, 64), work), Curve("each", "size", (8, 16, 32, 64), quadratic)]
    monkeypatch.setattr(growth, "_curves", lambda settings, folder: curves)
    table = measure(Settings(quick=True))
    goals = table.goals
    assert [goal.what for goal in goals] == ["once against size", "each against size"]
    assert goals[0].measured < goals[1].measured
    assert not goals[1].met
    assert any(note.startswith("Where the time of 'each against size' goes, at 32: ") for note in table.notes)
    assert len(table.notes) == sum(not goal.met for goal in goals)


@pytest.mark.parametrize(("part", "profile"), [("loss", "fill_"), ("reading annotations", "sleep")])
def test_a_missed_goal_has_the_profile_that_sees_into_it(part, profile, monkeypatch):
    def work(size):
        return lambda: (torch.ones(size**2), time.sleep(1e-6 * size**2))

    monkeypatch.setattr(growth, "_curves", lambda settings, folder: [Curve(part, "size", (30, 100, 300), work)])
    monkeypatch.setattr(growth, "fitted_exponent", lambda sizes, seconds: 2.0)
    (note,) = measure(Settings(quick=True)).notes
    assert profile in note
    assert "at 100: " in note
    assert "at 300: " in note


def test_the_figure_has_a_panel_a_size_and_a_line_a_part_with_its_exponent(tmp_path):
    rows = [
        {"part": part, "against": against, "size": size, "ms": float(size)}
        for part, against in (("loss", "classes"), ("matching", "classes"), ("loss", "objects"))
        for size in (1, 10, 100)
    ]
    goals = [
        Goal(f"{p} against {a}", 1.1, 1.0, "", True) for p, a in dict.fromkeys((r["part"], r["against"]) for r in rows)
    ]
    figure = growth_figure(Table("growth", "", rows, goals))
    assert [axes.get_xlabel() for axes in figure.axes] == ["classes", "objects"]
    labels = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes]
    assert labels == [["loss: 1.00", "matching: 1.00"], ["loss: 1.00"]]
    figure.savefig(tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 5000


def test_the_table_covers_loss_matching_post_processing_reading_and_evaluation():
    table = measure(Settings(quick=True))
    parts = {row["part"] for row in table.rows}
    assert parts == {"loss", "matching", "post-processing", "reading annotations", "COCO evaluation", "VOC evaluation"}
    assert len(table.goals) == 12
    assert all(goal.goal == 1.1 and goal.at_most and goal.measured < 2 for goal in table.goals)
    assert all(row["ms"] > 0 for row in table.rows)
