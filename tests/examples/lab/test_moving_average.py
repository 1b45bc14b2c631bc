"""Batch norm's moving averages against PyTorch's own layer, Caffe's sums and closed forms."""

import math

import pytest
import torch
from demonstration import for_json
from moving_average import CONVENTIONS, DECAYS, Convention, measure_moving_average
from torch import nn


@pytest.fixture(scope="module")
def numbers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moving_average._train_all", lambda seed, progress: {})
        return for_json(measure_moving_average(streams=60))


@pytest.mark.parametrize("decay", DECAYS)
def test_pytorchs_layer_keeps_the_averages_of_its_convention_with_momentum_one_minus_decay(decay):
    batches = 3 + 2 * torch.randn(50, 8)
    layer = nn.BatchNorm1d(1, momentum=1 - decay)
    for batch in batches:
        layer(batch[:, None])
    mean, variance = Convention(decay).follow(batches)
    torch.testing.assert_close(layer.running_mean, mean[-1:])
    torch.testing.assert_close(layer.running_var, variance[-1:])


def test_without_a_momentum_pytorch_takes_the_plain_average_which_caffes_convention_nears_as_decay_nears_one():
    batches = 3 + 2 * torch.randn(20, 8, dtype=torch.float64)
    layer = nn.BatchNorm1d(1, momentum=None, dtype=torch.float64)
    for batch in batches:
        layer(batch[:, None])
    mean, variance = Convention(1 - 1e-9, corrected=True).follow(batches)
    torch.testing.assert_close(layer.running_mean, mean[-1:], rtol=1e-6, atol=0)
    torch.testing.assert_close(layer.running_var, variance[-1:], rtol=1e-6, atol=0)


def test_caffes_sums_divided_by_their_weight_are_the_corrected_average():
    batches = 3 + 2 * torch.randn(30, 8, dtype=torch.float64)
    total = weight = 0.0
    for batch in batches:  # batch_norm_layer.cpp: blobs_[0] = 0.9 · blobs_[0] + mean; blobs_[2] = 0.9 · blobs_[2] + 1
        total, weight = 0.9 * total + batch.mean(), 0.9 * weight + 1
    torch.testing.assert_close(CONVENTIONS["Caffe"].follow(batches)[0][-1], total / weight)


def test_the_first_step_differs_as_the_table_says(numbers):
    first = numbers["first_step_on_1_2_3_6"]  # mean 3, variance 3.5 over n, 14/3 over n − 1
    assert first["PyTorch"] == pytest.approx([0.3, 0.9 + 0.1 * 14 / 3], abs=1e-5)
    assert first["TensorFlow, fused"] == first["PyTorch"]
    assert first["TensorFlow, not fused"] == pytest.approx([0.3, 0.9 + 0.1 * 3.5], abs=1e-5)
    assert first["Caffe"] == pytest.approx([3.0, 14 / 3], abs=1e-5)


def test_an_average_that_starts_at_0_is_low_by_decay_to_the_t_and_a_corrected_one_is_not(numbers):
    for row in numbers["warm_up"].values():
        assert row["mean"] == pytest.approx(row["expected_mean"], abs=0.1)
        assert row["mean_corrected"] == pytest.approx([3.0] * len(numbers["steps"]), abs=0.15)
    assert numbers["warm_up"]["0.999"]["mean"][-1] == pytest.approx(3 * (1 - 0.999**1000), abs=0.05)


def test_a_variance_that_starts_at_1_nears_the_truth_by_the_closed_form_and_a_corrected_one_is_there_at_once(numbers):
    for decay, row in numbers["warm_up"].items():
        left = [float(decay) ** step for step in numbers["steps"]]
        closed_form = [share * 1 + (1 - share) * 4 for share in left]
        assert row["expected_variance"] == pytest.approx(closed_form, rel=1e-5)
        # 60 streams: one batch's variance has the standard deviation 4 · √(2 / 31), five of them are allowed
        deviation = 5 * 4 * math.sqrt(2 / 31) / math.sqrt(60) * math.sqrt((1 - float(decay)) / (1 + float(decay)))
        assert row["variance"] == pytest.approx(closed_form, abs=deviation)
        assert row["variance_corrected"] == pytest.approx([4.0] * len(left), abs=5 * 4 * math.sqrt(2 / 31 / 60))
    assert numbers["warm_up"]["0.999"]["variance"][-1] == pytest.approx(2.897, abs=0.03)


def test_the_noise_of_an_average_is_that_of_the_closed_form(numbers):
    for row in numbers["warm_up"].values():
        assert row["noise"] == pytest.approx(row["expected_noise"], rel=0.2)
    assert numbers["warm_up"]["0.9"]["expected_noise"] == pytest.approx(math.sqrt(1 / 19), rel=1e-4)


def test_a_biased_variance_ends_at_n_minus_1_over_n_and_an_unbiased_one_at_the_truth(numbers):
    for size, row in numbers["small_batches"].items():
        assert row["expected_biased"] == 1 - 1 / int(size)
        assert row["biased"] == pytest.approx(row["expected_biased"], rel=0.03)
        assert row["unbiased"] == pytest.approx(1.0, rel=0.03)
