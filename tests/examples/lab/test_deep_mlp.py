"""Seven hidden layers before training, against closed forms; the shapes of what is measured while training."""

import math

import numpy as np
import pytest
import torch
from deep_mlp import ARMS, draw_deep_mlp, measure_deep_mlp, pre_activations
from demonstration import for_json
from torch import nn


@pytest.fixture(scope="module")
def numbers():
    return for_json(measure_deep_mlp(num_seeds=4, steps=10, learning_rates=(1e-10,)))


def growth(rms):
    return (rms[-1] / rms[1]) ** (1 / (len(rms) - 2))


def test_relu_pre_activations_grow_by_the_root_of_half_the_units_per_layer(numbers):
    unscaled, scaled = (numbers["arms"][f"ReLU, {w}"]["rms"][0] for w in ("N(0, 1) weights", "scaled weights"))
    assert growth(unscaled) == pytest.approx(math.sqrt(15), rel=0.2)
    assert growth(unscaled) / growth(scaled) == pytest.approx(math.sqrt(15), rel=1e-3)


def test_before_training_batch_norm_makes_every_layers_size_one(numbers):
    for name in ("ReLU, with batch norm", "tanh, with batch norm"):
        assert numbers["arms"][name]["rms"][0] == pytest.approx([1.0] * 7, rel=0.01)


def test_one_seed_draws_the_same_dead_units_with_scaled_weights_since_relu_is_scale_invariant(numbers):
    unscaled, scaled = (numbers["arms"][f"ReLU, {w}"]["idle"][0] for w in ("N(0, 1) weights", "scaled weights"))
    assert unscaled == pytest.approx(scaled, abs=0.01)


def test_layers_are_read_before_training_and_after_its_last_step_of_all_seeds(numbers):
    assert numbers["moments"] == [0, 1, 3, 10]
    counts = np.array(numbers["arms"]["ReLU, with batch norm"]["histograms"])
    assert counts.shape == (4, 7, 76)
    assert (counts.sum(2) == 4 * 500 * 30).all()  # seeds × points × units
    titles = {axes.get_title(loc="left").split(", lr ")[0] for axes in draw_deep_mlp(numbers)["pre-activations"].axes}
    assert titles == set(ARMS)


def test_pre_activations_are_normalised_with_the_points_given_and_leave_the_network_unchanged():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
    nn.init.ones_(network[0].weight)
    nn.init.constant_(network[1].running_mean, 7.0)
    nn.init.constant_(network[1].weight, 2.0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    (z,) = pre_activations(network.eval(), 5 + torch.randn(500, 1))
    torch.testing.assert_close(z.mean(0), torch.zeros(3), rtol=0, atol=1e-2)
    torch.testing.assert_close(z.std(0, correction=0), torch.full((3,), 2.0), rtol=1e-3, atol=0)
    assert not network.training
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
