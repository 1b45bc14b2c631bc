"""Curves read from a run's files."""

import numpy as np
import pytest

from ssdnorm.compare.curves import LOSS, mean_log, read_log, thinned


def test_losses_evaluations_and_diagnostics_are_told_apart_and_the_last_of_equal_steps_counts(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "step,loss,evaluated_on,AP\n10,5.5,,\n20,9.0,,\n20,4.5,,\n20,,validation,0.1\n40,,validation,0.3\n40,,test,0.25\n"
    )
    (tmp_path / "diagnostics.csv").write_text(
        "step,statistic,name,value\n0,rms_before,fc7,1.5\n10,rms_before,fc7,2.5\n0,dead_channels,fc7,0.5\n"
    )
    assert {key: curve.tolist() for key, curve in read_log(tmp_path, "AP").items()} == {
        LOSS: [[10, 5.5], [20, 4.5]],
        ("evaluation", "validation"): [[20, 0.1], [40, 0.3]],
        ("evaluation", "test"): [[40, 0.25]],
        ("rms_before", "fc7"): [[0, 1.5], [10, 2.5]],
        ("dead_channels", "fc7"): [[0, 0.5]],
    }


def test_a_folder_without_files_has_no_curves(tmp_path):
    assert read_log(tmp_path, "AP") == {}


def test_a_loss_that_is_no_number_and_a_cut_last_line_are_left_out(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss,evaluated_on,AP\n1,2.0,,\n2,nan,,\n3,inf,,\n4,")
    (tmp_path / "diagnostics.csv").write_text("step,statistic,name,value\n0,rms,fc7,2.0\n20,rms_after")
    log = read_log(tmp_path, "AP")
    assert log.keys() == {LOSS, ("rms", "fc7")}
    assert log[LOSS].tolist() == [[1, 2.0]]


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
        read_log(tmp_path, "AP")


def test_the_mean_is_taken_over_the_runs_that_have_a_curve_where_all_of_them_have_a_value():
    ours, theirs = ([[0, 1], [10, 2], [20, 3]], [[10, 4], [20, 7], [30, 9]])
    mean = mean_log([{LOSS: np.array(ours)}, {LOSS: np.array(theirs)}, {("rms", "fc7"): np.array([[0, 2]])}])
    assert mean[LOSS].tolist() == [[10, 3], [20, 5]]
    assert mean["rms", "fc7"].tolist() == [[0, 2]]


@pytest.mark.parametrize("length", [150, 151, 100_003])
def test_a_thinned_curve_keeps_its_mean_and_its_order(length):
    whole = np.stack([np.arange(length), np.random.default_rng(length).normal(size=length)], axis=1)
    thin = thinned(whole, 150)
    assert len(thin) == min(length, 150)
    assert (np.diff(thin[:, 0]) > 0).all()
    sizes = np.diff([*np.unique(np.linspace(0, length, len(thin), endpoint=False).astype(int)), length])
    np.testing.assert_allclose(np.average(thin, axis=0, weights=sizes), whole.mean(axis=0), rtol=1e-9, atol=1e-12)


def test_neighbours_are_averaged():
    assert thinned(np.array([[0, 1], [1, 3], [2, 10], [3, 20]]), 2).tolist() == [[0.5, 2], [2.5, 15]]
