"""Figures of the errors: bars as long as the gain."""

from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.errors import ErrorAnalysis
from ssdnorm.plots.diagnostics import plot_errors
from tests.metrics.random_sets import draw_set


def test_the_bars_of_the_errors_are_as_long_as_their_gain():
    errors = ErrorAnalysis(evaluate_coco(*draw_set(1))).breakdown()
    widths = [bar.get_width() for bar in plot_errors(errors).axes[0].containers[0]]
    assert widths[:6] == list(errors.delta_ap.values())
    assert widths[6:] == [errors.delta_ap_false_positives, errors.delta_ap_false_negatives]
