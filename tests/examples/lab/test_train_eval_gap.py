"""Batch norm on two numbers, and on batches of n values, against closed forms."""

import math

import pytest
import torch
from demonstration import for_json
from torch import nn
from train_eval_gap import MOMENTA, measure_train_eval_gap


@pytest.fixture(scope="module")
def numbers():
    return for_json(measure_train_eval_gap())


@pytest.mark.parametrize("inputs", ["1e5 and 2e5", "1 and 2e13"])
def test_two_inputs_normalise_to_plus_and_minus_one_whatever_they_were(numbers, inputs):
    for fit in numbers["fits"][inputs].values():
        assert fit["normalised"]["train"] == pytest.approx([-1.0, 1.0], abs=1e-5)
        assert fit["train"][-1] < 1e-12


@pytest.mark.parametrize("inputs", ["1e5 and 2e5", "1 and 2e13"])
def test_eval_mode_gives_one_over_root_two_and_keeps_an_error_of_its_own(numbers, inputs):
    error = (0.5 * (1 - 1 / math.sqrt(2))) ** 2  # slope 0.5, normalised ±0.707 in place of ±1
    for name in ("0.1", "1", "None"):
        fit = numbers["fits"][inputs][name]
        assert fit["normalised"]["eval"] == pytest.approx([-math.sqrt(0.5), math.sqrt(0.5)], rel=1e-4)
        assert fit["eval"][-1] == pytest.approx(error, rel=1e-3)


def test_eval_mode_with_momentum_0_hands_the_inputs_on(numbers):
    fit = numbers["fits"]["1e5 and 2e5"]["0"]
    assert (fit["running_mean"], fit["running_var"]) == (0.0, 1.0)
    assert fit["normalised"]["eval"] == pytest.approx([1e5, 2e5], rel=1e-5)
    assert fit["eval"][-1] == pytest.approx(((0.5 * 1e5) ** 2 + (0.5 * 2e5) ** 2) / 2, rel=1e-3)
    assert numbers["fits"]["1 and 2e13"]["0"]["eval"][-1] == pytest.approx((0.5 * 2e13) ** 2 / 2, rel=1e-3)


def test_the_momentum_does_not_change_training(numbers):
    for fits in numbers["fits"].values():
        assert [list(fits)] == [list(MOMENTA)]
        for fit in fits.values():
            assert fit["train"][:20] == pytest.approx(fits["0"]["train"][:20], rel=1e-3)


def test_the_gradient_that_passes_is_the_root_of_n_minus_2_over_n(numbers):
    for size, row in numbers["batches"].items():
        assert row["expected_gradient"] == pytest.approx(math.sqrt(1 - 2 / int(size)), abs=1e-5)
        if size == "2":
            assert row["gradient"] < 0.1  # not 0: eps, where two values lie close
        else:
            assert row["gradient"] == pytest.approx(row["expected_gradient"], rel=0.02)


def test_a_layer_in_front_of_a_batch_of_two_cannot_learn():
    torch.manual_seed(0)
    x, grad = torch.randn(2, 4), torch.randn(2, 8)
    layer = nn.Linear(4, 8)
    nn.BatchNorm1d(8, eps=1e-12)(layer(x)).backward(grad)
    assert layer.weight.grad.abs().max() < 1e-4
    layer.zero_grad()
    nn.BatchNorm1d(8).eval()(layer(x)).backward(grad)
    assert layer.weight.grad.abs().max() > 0.1


def test_the_error_of_a_batch_of_two_stays_at_one_eighteenth(numbers):
    row = numbers["batches"]["2"]
    assert row["slope"] == pytest.approx(1 / 6, rel=0.01)  # E|x − x′| / 2
    assert row["train_error"] == pytest.approx(1 / 18, rel=0.01)
    assert row["eval_error"] == pytest.approx((1 - math.sqrt(12) / 6) ** 2 / 12, rel=0.02)


def test_eval_mode_fits_better_than_train_mode_here_and_both_improve_with_the_batch(numbers):
    rows = list(numbers["batches"].values())
    for row in rows:
        assert row["eval_error"] < 0.3 * row["train_error"]
        assert row["train_error"] == pytest.approx(1 / 12 - row["slope"] ** 2, rel=0.05)
    for key in ("train_error", "eval_error"):
        assert [row[key] for row in rows] == sorted((row[key] for row in rows), reverse=True)
