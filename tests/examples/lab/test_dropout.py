"""Dropout's moments and variance shift: closed forms against samples, and PyTorch's layer as the outside reference."""

import pytest
import torch
from demonstration import generator
from dropout import CORRELATIONS, MEAN, VARIANCE, _moments, _shift, expected_moments, variance_shift
from torch import nn


def test_the_moments_are_those_of_a_relu_of_a_normal():
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0)).relu()
    assert (x.mean().item(), x.var().item()) == pytest.approx((MEAN, VARIANCE), rel=0.01)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_pytorchs_layer_scales_inverted(p):
    torch.manual_seed(0)
    x = torch.randn(1_000_000).relu()
    layer = nn.Dropout(p)
    y = layer(x)
    assert (y.mean().item(), y.var().item()) == pytest.approx(expected_moments(p, "inverted, training"), rel=0.01)
    assert torch.equal(layer.eval()(x), x)


def test_measured_moments_are_the_closed_forms():
    for p in (0.1, 0.7):
        for row in _moments(p, generator(0)).values():
            assert [row["mean"], row["variance"]] == pytest.approx(row["expected"], rel=0.03)


def test_both_scalings_keep_the_mean_and_neither_the_variance():
    for p in (0.1, 0.5, 0.7):
        for scaling in ("inverted", "at test time"):
            training, evaluation = (expected_moments(p, f"{scaling}, {mode}") for mode in ("training", "evaluation"))
            assert training[0] == evaluation[0]
            assert training[1] > 1.1 * evaluation[1]


def test_both_scalings_shift_the_variance_by_the_same_factor():
    inverted, classic = (
        expected_moments(0.5, f"{s}, evaluation")[1] / expected_moments(0.5, f"{s}, training")[1]
        for s in ("inverted", "at test time")
    )
    assert inverted == pytest.approx(classic)
    assert inverted == pytest.approx(variance_shift(0.5))
    assert inverted == pytest.approx(0.405, abs=0.001)


def test_the_measured_shift_is_the_closed_form_and_correlated_inputs_soften_it():
    shifts = [_shift(0.7, rho, generator(0)) for rho in CORRELATIONS]
    for shift in shifts:
        assert shift["measured"] == pytest.approx(shift["expected"], rel=0.05)
    assert [shift["expected"] for shift in shifts] == pytest.approx([0.226, 0.681, 0.905], abs=0.001)


def test_weights_that_sum_to_0_undo_what_correlation_softens():
    assert variance_shift(0.5, correlation=0.5, alignment=-1.0) < variance_shift(0.5) < 0.41
