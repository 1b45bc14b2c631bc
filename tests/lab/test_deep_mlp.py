"""What docs/lab/deep-mlp.md claims: before training on 12 seeds, after it on two; on all five under slow."""

import math

import pytest

from ssdnorm.lab.deep_mlp import ARMS, draw_deep_mlp, measure_deep_mlp


@pytest.fixture(scope="module")
def numbers():
    return measure_deep_mlp(seed=1, num_seeds=2, learning_rates=(1e-3,))


@pytest.fixture(scope="module")
def before_training():
    return measure_deep_mlp(num_seeds=12, steps=10, learning_rates=(1e-10,))["arms"]


def growth(rms):
    return (rms[-1] / rms[1]) ** (1 / (len(rms) - 2))


def test_relu_pre_activations_grow_by_the_root_of_half_the_units_a_layer(before_training):
    assert growth(before_training["ReLU, N(0, 1) weights"]["rms_before"]) == pytest.approx(math.sqrt(15), rel=0.1)


def test_scaled_weights_keep_the_size_and_batch_norm_makes_it_one(before_training):
    assert growth(before_training["ReLU, scaled weights"]["rms_before"]) == pytest.approx(1.0, rel=0.1)
    for name in ("ReLU, with batch norm", "tanh, with batch norm"):
        assert before_training[name]["rms_before"] == pytest.approx([1.0] * 7, rel=0.01)


def test_before_training_units_are_idle_without_norm_and_hardly_any_with_it(before_training):
    assert min(before_training["ReLU, N(0, 1) weights"]["idle_before"][2:]) > 0.2
    assert min(before_training["tanh, N(0, 1) weights"]["idle_before"]) > 0.4
    assert max(before_training["ReLU, with batch norm"]["idle_before"]) == 0
    assert max(before_training["tanh, with batch norm"]["idle_before"]) < 0.001


def test_one_seed_draws_the_same_dead_units_with_scaled_weights_since_relu_knows_no_scale(before_training):
    unscaled, scaled = (before_training[f"ReLU, {w}"]["idle_before"] for w in ("N(0, 1) weights", "scaled weights"))
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
    assert arm["idle_after"][0] > 0.8
    assert arm["idle_after"][-1] < 0.2


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
    assert min(arms["ReLU, with batch norm"]["idle_after"][:4]) > 0.1
