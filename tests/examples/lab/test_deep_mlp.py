"""What docs/lab/deep-mlp.md claims: before training on 12 seeds, after it on two; on all five under slow."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from examples.lab.deep_mlp import ARMS, draw_deep_mlp, measure_deep_mlp, pre_activations


@pytest.fixture(scope="module")
def numbers():
    return measure_deep_mlp(seed=1, num_seeds=2, learning_rates=(1e-3,))


@pytest.fixture(scope="module")
def before_training():
    return measure_deep_mlp(num_seeds=12, steps=10, learning_rates=(1e-10,))["arms"]


def growth(rms):
    return (rms[-1] / rms[1]) ** (1 / (len(rms) - 2))


def test_relu_pre_activations_grow_by_the_root_of_half_the_units_a_layer(before_training):
    assert growth(before_training["ReLU, N(0, 1) weights"]["rms"][0]) == pytest.approx(math.sqrt(15), rel=0.1)


def test_scaled_weights_keep_the_size_and_batch_norm_makes_it_one(before_training):
    assert growth(before_training["ReLU, scaled weights"]["rms"][0]) == pytest.approx(1.0, rel=0.1)
    for name in ("ReLU, with batch norm", "tanh, with batch norm"):
        assert before_training[name]["rms"][0] == pytest.approx([1.0] * 7, rel=0.01)


def test_before_training_units_are_idle_without_norm_and_hardly_any_with_it(before_training):
    assert min(before_training["ReLU, N(0, 1) weights"]["idle"][0][2:]) > 0.2
    assert min(before_training["tanh, N(0, 1) weights"]["idle"][0]) > 0.4
    assert max(before_training["ReLU, with batch norm"]["idle"][0]) == 0
    assert max(before_training["tanh, with batch norm"]["idle"][0]) < 0.001


def test_one_seed_draws_the_same_dead_units_with_scaled_weights_since_relu_knows_no_scale(before_training):
    unscaled, scaled = (before_training[f"ReLU, {w}"]["idle"][0] for w in ("N(0, 1) weights", "scaled weights"))
    assert unscaled == pytest.approx(scaled, abs=0.01)


def test_relu_without_norm_diverges_at_the_learning_rate_that_serves_batch_norm(numbers):
    arms = numbers["arms"]
    assert arms["ReLU, N(0, 1) weights"]["final_cost_by_lr"]["0.001"] == [None, None]
    assert max(arms["ReLU, with batch norm"]["final_cost_by_lr"]["0.001"]) < 0.1


def test_at_its_best_rate_tanh_ends_lower_with_batch_norm_than_without(numbers):
    arms = numbers["arms"]
    assert arms["tanh, N(0, 1) weights"]["final_cost"] > 3 * arms["tanh, with batch norm"]["final_cost"]
    assert arms["tanh, scaled weights"]["final_cost"] > 3 * arms["tanh, with batch norm"]["final_cost"]


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    few = {"num_seeds": 1, "steps": 10, "learning_rates": (1e-3,)}
    assert measure_deep_mlp(**few) == measure_deep_mlp(**few)
    assert measure_deep_mlp(seed=1, **few)["arms"] != measure_deep_mlp(**few)["arms"]


def test_there_are_four_figures_and_a_panel_for_each_arm(numbers):
    figures = draw_deep_mlp(numbers)
    assert list(figures) == ["pre-activations", "idle", "cost", "learning-rates"]
    titles = {axes.get_title(loc="left").split(", lr ")[0] for axes in figures["pre-activations"].axes}
    assert titles == set(ARMS)


def test_tanh_learns_with_saturated_units_in_front_of_the_norms_that_follow(numbers):
    arm = numbers["arms"]["tanh, with batch norm"]
    assert arm["final_cost"] < 0.2
    assert arm["idle"][-1][0] > 0.8
    assert arm["idle"][-1][-1] < 0.2


def test_histograms_are_of_all_seeds_at_each_moment_of_training_and_change_with_it(numbers):
    assert numbers["moments"] == [0, 1, 3, 10, 30, 100, 300]
    counts = np.array(numbers["arms"]["ReLU, with batch norm"]["histograms"])
    assert counts.shape == (7, 7, 76)
    assert (counts.sum(2) == 2 * 500 * 30).all()  # seeds × points × units
    assert (counts[1:] != counts[:-1]).any(2).all()


def test_a_short_training_is_looked_into_before_it_and_after_its_last_step():
    short = measure_deep_mlp(num_seeds=1, steps=20, learning_rates=(1e-3,))
    assert short["moments"] == [0, 1, 3, 10, 20]
    assert {len(arm["rms"]) for arm in short["arms"].values()} == {5}  # also of networks that diverged


def test_pre_activations_are_normalised_with_the_points_given_and_leave_the_network_as_it_is():
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


def test_the_first_step_throws_the_scales_of_the_first_tanh_layer_and_the_later_ones_hardly_move_it(numbers):
    rms = numbers["arms"]["tanh, with batch norm"]["rms"]
    assert rms[0][0] == pytest.approx(1.0, rel=0.01)
    assert rms[1][0] > 10
    assert rms[-1][0] == pytest.approx(rms[1][0], rel=0.01)


def test_a_panel_has_a_column_for_each_layer_and_moment(numbers):
    for axes in draw_deep_mlp(numbers)["pre-activations"].axes:
        drawn = axes.collections[0].get_array()
        assert drawn.shape == (76, 7 * (7 + 1))  # a gap after each layer
        assert drawn[:, 7::8].mask.all()
        name = axes.get_title(loc="left").split(", lr ")[0]
        counts = np.array(numbers["arms"][name]["histograms"])  # moment × layer × height
        assert (drawn[:, 8 + 2].mask == (counts[2, 1] == 0)).all()  # layer 2, after 3 steps


@pytest.mark.slow
def test_over_all_seeds_and_learning_rates_batch_norm_ends_lowest():
    arms = measure_deep_mlp()["arms"]
    final = {name: arm["final_cost"] for name, arm in arms.items()}
    assert final["ReLU, with batch norm"] < 0.05
    assert 0.1 < final["ReLU, scaled weights"] < 0.3
    assert final["ReLU, N(0, 1) weights"] > 0.5
    assert final["tanh, with batch norm"] < 0.3
    assert min(final["tanh, N(0, 1) weights"], final["tanh, scaled weights"]) > 0.5
    assert arms["ReLU, N(0, 1) weights"]["final_cost_by_lr"]["1e-08"] == [None] * 5
    assert all(arm["final_cost_by_lr"]["0.1"] == [None] * 5 for arm in arms.values())
    assert max(arms["tanh, with batch norm"]["final_cost_by_lr"]["0.001"]) > 1
    assert min(arms["ReLU, with batch norm"]["idle"][-1][:4]) > 0.1
