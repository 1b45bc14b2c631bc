"""Thresholds: the curves against a loop over scores, and the points where F1 is highest."""

import numpy as np
import pytest

from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.thresholds import curves_of, operating_points, points_table, score_curves, thresholds_of
from ssdnorm.metrics.worst import find_outcomes
from tests.metrics.random_sets import draw_set


@pytest.mark.parametrize("label", [None, 2])
def test_the_curves_are_those_of_a_loop_over_scores(label):
    outcomes = find_outcomes(evaluate_coco(*draw_set(4, crowd=0.2, tied=True)))
    curves = curves_of(outcomes, label)
    found = ~outcomes.ignored & ((outcomes.found.labels == label) if label else True)
    objects = (~outcomes.truth.iscrowd & ((outcomes.truth.labels == label) if label else True)).sum()
    assert curves.scores.tolist() == sorted(set(outcomes.found.scores[found].tolist()))
    for i, score in enumerate(curves.scores):
        kept = found & (outcomes.found.scores >= score)
        hits = (outcomes.hit & kept).sum()
        precision, recall = hits / kept.sum(), hits / objects
        assert (curves.precision[i], curves.recall[i]) == pytest.approx((precision, recall))
        assert curves.f1[i] == pytest.approx(2 * precision * recall / max(precision + recall, 1e-9))


def test_the_threshold_lies_between_the_last_score_that_is_kept_and_the_next():
    curves = score_curves(np.array([0.9, 0.2, 0.6, 0.5]), np.array([True, False, True, False]), 3)
    assert curves.best() == pytest.approx({"threshold": 0.55, "precision": 1.0, "recall": 2 / 3, "f1": 0.8})
    lowest = score_curves(np.array([0.5]), np.array([True]), 1)
    assert lowest.best()["threshold"] == 0.25
    assert score_curves(np.array([0.5]), np.array([False]), 1).best() is None
    assert score_curves(np.zeros(0), np.zeros(0, bool), 0).best() is None


def test_a_class_without_a_hit_gets_the_threshold_of_all_classes_together():
    points = {"iou_threshold": 0.5, "all": {"threshold": 0.3}, "classes": {"a": {"threshold": 0.7}, "b": None}}
    assert thresholds_of(points) == {"a": 0.7, "b": 0.3}
    assert thresholds_of({**points, "all": None}) is None


def test_every_class_has_a_line():
    result = evaluate_coco(*draw_set(4))
    points = operating_points(result)
    lines = points_table(points).splitlines()
    assert len(lines) == 2 + len(points["classes"]) + 1
    assert f"{points['all']['f1']:.3f}" in lines[-1]
    nothing = points_table(operating_points(evaluate_coco(draw_set(4)[0], [])))
    assert nothing.splitlines()[-1].endswith("no hit")
