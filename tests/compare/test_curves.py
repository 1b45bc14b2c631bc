"""Curves read from a run's files."""

import numpy as np
import pytest

from ssdnorm.compare.curves import Curve, mean_curve, read_run_log
from ssdnorm.compare.results import Run

RUN = Run("an arm", 3, 0.1, ".", "finished")


def curve(steps, values) -> Curve:
    return Curve(np.array(steps), np.array(values, float))


def test_losses_evaluations_and_diagnostics_are_told_apart(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "step,loss,evaluated_on,AP\n10,5.5,,\n20,4.5,,\n20,,validation,0.1\n40,,validation,0.3\n40,,test,0.25\n"
    )
    (tmp_path / "diagnostics.csv").write_text(
        "step,statistic,name,value\n0,rms_before,fc7,1.5\n10,rms_before,fc7,2.5\n0,dead_channels,fc7,0.5\n"
    )
    log = read_run_log(RUN, tmp_path, "AP")
    assert log.loss.steps.tolist() == [10, 20]
    assert log.loss.values.tolist() == [5.5, 4.5]
    assert {name: found.values.tolist() for name, found in log.evaluations.items()} == {
        "validation": [0.1, 0.3],
        "test": [0.25],
    }
    assert log.diagnostics["rms_before"]["fc7"].values.tolist() == [1.5, 2.5]
    assert log.diagnostics["dead_channels"]["fc7"].steps.tolist() == [0]


def test_a_folder_without_files_has_empty_curves(tmp_path):
    log = read_run_log(RUN, tmp_path, "AP")
    assert len(log.loss) == 0
    assert log.evaluations == log.diagnostics == {}


def test_a_loss_that_is_no_number_and_a_cut_last_line_are_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss,evaluated_on,AP\n1,2.0,,\n2,nan,,\n3,inf,,\n4,")
    (tmp_path / "diagnostics.csv").write_text("step,statistic,name,value\n0,rms,fc7,2.0\n20,rms_after")
    log = read_run_log(RUN, tmp_path, "AP")
    assert log.loss.steps.tolist() == [1]
    assert list(log.diagnostics) == ["rms"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("diagnostics.csv", "step,statistic,value\n0,rms,2.0\n"),
        ("diagnostics.csv", "step,statistic,name,value\n0,rms,fc7,much\n"),
        ("metrics.csv", "step,loss,evaluated_on,AP\n1,abc,,\n"),
        ("metrics.csv", "loss,evaluated_on,AP\n,test,0.1\n"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"/{name}: damaged; delete the run folder to repeat the run: "):
        read_run_log(RUN, tmp_path, "AP")


def test_the_mean_is_taken_where_all_curves_have_a_value():
    mean = mean_curve([curve([0, 10, 20], [1, 2, 3]), curve([10, 20, 30], [4, 7, 9]), curve([], [])])
    assert mean.steps.tolist() == [10, 20]
    assert mean.values.tolist() == [3, 5]


@pytest.mark.parametrize("length", [150, 151, 100_003])
def test_a_thinned_curve_keeps_its_mean_and_its_order(length):
    rng = np.random.default_rng(length)
    whole = curve(np.arange(length), rng.normal(size=length))
    thin = whole.thinned(150)
    assert len(thin) == min(length, 150)
    assert (np.diff(thin.steps) > 0).all()
    sizes = np.diff([*np.unique(np.linspace(0, length, len(thin), endpoint=False).astype(int)), length])
    np.testing.assert_allclose(np.average(thin.values, weights=sizes), whole.values.mean(), rtol=1e-9, atol=1e-12)


def test_neighbours_are_averaged():
    assert curve([0, 1, 2, 3], [1, 3, 10, 20]).thinned(2).values.tolist() == [2, 15]
