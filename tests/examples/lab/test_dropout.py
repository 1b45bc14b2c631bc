"""What docs/lab/dropout.md claims: closed forms against measurements, and PyTorch's layer as the outside reference."""

import warnings

import pytest
import torch
from torch import nn

from examples.lab.dropout import MEAN, VARIANCE, expected_moments, measure_dropout, variance_shift
from ssdnorm.layers import ConvBlock, warn_dropout_before_batch_norm


@pytest.fixture(scope="module")
def numbers():
    return measure_dropout(num_seeds=1, probabilities=(0.1, 0.7))


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


def test_measured_moments_are_the_closed_forms(numbers):
    for modes in numbers["moments"].values():
        for row in modes.values():
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


def test_the_measured_shift_is_the_closed_form_and_correlated_inputs_soften_it(numbers):
    for row in numbers["shifts"].values():
        for shift in row.values():
            assert shift["measured"] == pytest.approx(shift["expected"], rel=0.02)
    assert [numbers["shifts"][rho]["0.7"]["measured"] for rho in ("0", "0.1", "0.5")] == pytest.approx(
        [0.226, 0.681, 0.905], abs=0.02
    )


def test_weights_that_sum_to_0_undo_what_correlation_softens():
    assert variance_shift(0.5, correlation=0.5, alignment=-1.0) < variance_shift(0.5) < 0.41


def test_a_trained_batch_norm_gives_in_evaluation_the_variance_of_the_shift_instead_of_1(numbers):
    for p, row in numbers["training"].items():
        for variance in row["variance_behind_the_norm"]:
            assert variance_shift(float(p)) * 0.95 < variance < variance_shift(float(p)) * 1.3


def test_at_a_high_p_dropout_behind_the_norm_is_best_and_recomputed_statistics_come_second(numbers):
    row = {key: sum(costs) / len(costs) for key, costs in numbers["training"]["0.7"].items()}
    assert row["after"] < 0.8 * row["before, recomputed"]
    assert row["before, recomputed"] < 0.8 * row["before"]


def test_the_library_warns_of_the_harmful_order_and_not_of_the_other():
    first = {"fc6": ConvBlock(4, 4, 1, dropout=0.5), "fc7": ConvBlock(4, 4, 1, norm=nn.BatchNorm2d)}
    with pytest.warns(UserWarning, match=r"fc6\.dropout before fc7\.norm"):
        warn_dropout_before_batch_norm(first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_dropout_before_batch_norm({"fc7": ConvBlock(4, 4, 1, norm=nn.BatchNorm2d, dropout=0.5)})


@pytest.mark.slow
def test_over_three_seeds_dropout_in_front_costs_more_the_more_is_dropped():
    training = measure_dropout()["training"]
    mean = {p: {key: sum(costs) / len(costs) for key, costs in row.items()} for p, row in training.items()}
    ratios = [mean[p]["before"] / mean[p]["after"] for p in ("0.1", "0.5", "0.7")]
    assert ratios == sorted(ratios)
    assert ratios[1] > 1.4
    assert ratios[2] > 2.0
    for p in ("0.5", "0.7"):
        assert mean[p]["after"] < mean[p]["before, recomputed"] < mean[p]["before"]
