"""What docs/lab/batch-size.md claims of the small network; of the SSD's taps under slow."""

import numpy as np
import pytest
import torch

from examples.lab.batch_size import (
    TAP_BATCH_SIZES,
    draw_batch_size,
    draw_discs,
    measure_batch_size,
    measure_taps,
    statistics_of_the_batch,
    train,
)
from examples.lab.demonstration import generator, in_silence


@pytest.fixture(scope="module")
def networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("examples.lab.batch_size.measure_taps", lambda seed, progress: {})
        return measure_batch_size()["networks"]


def test_both_networks_have_learnt_the_colours(networks):
    assert min(network["accuracy_from_training"] for network in networks.values()) > 0.95


def test_alone_an_image_is_guessed_and_in_a_mixed_batch_of_32_it_is_known(networks):
    rows = networks["batch norm"]["by_size"]
    assert rows["1"]["accuracy_mixed"] < 0.35
    assert 0.5 < rows["2"]["accuracy_mixed"] < 0.8
    assert rows["32"]["accuracy_mixed"] > 0.95


def test_the_distance_from_eval_mode_shrinks_with_the_batch(networks):
    distances = [row["distance"] for row in networks["batch norm"]["by_size"].values()]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.5
    assert distances[-1] < 0.1


def test_batches_of_one_class_are_misread_at_any_size(networks):
    assert max(row["accuracy_alike"] for row in networks["batch norm"]["by_size"].values()) < 0.5


def test_the_company_decides_whether_one_image_is_recognised_until_batches_are_large(networks):
    one = networks["batch norm"]["one_image"]
    for size in ("2", "4"):
        assert min(one[size]) < 0.2
        assert max(one[size]) > 0.95
    assert min(*one["16"], *one["32"], *one["64"]) > 0.95


def test_the_company_does_not_matter_with_the_statistics_of_training_and_does_with_those_of_the_batch(networks):
    network = networks["batch norm"]
    assert np.ptp(list(network["one_image_from_training"].values())) < 1e-6
    assert np.ptp(list(network["one_image"].values())) > 0.9
    for row in network["by_size"].values():
        assert row["distance_from_training"] < 1e-6
        assert row["distance"] > 0.01
        assert row["accuracy_from_training"] == network["accuracy_from_training"]


def test_an_unsure_network_gives_an_image_the_same_output_alone_and_in_company_in_eval_mode_only():
    images, labels = draw_discs(64, 16, generator(0))
    network = train("batch_norm", images, labels, 5, 0).double()
    images = images.double()
    alone = network.eval()(images[:1])
    assert 0.3 < alone.softmax(1).max() < 0.9  # not saturated: a probability of 1 could hide a difference
    for size in (2, 16, 64):
        assert torch.allclose(network.eval()(images[:size])[:1], alone, rtol=0, atol=1e-6)
        assert (statistics_of_the_batch(network)(images[:size])[:1] - alone).abs().max() > 0.01


def test_the_figures_draw_both_statistics(networks):
    taps = {f"tap {i}": {"cells": 1, "distance": dict.fromkeys(TAP_BATCH_SIZES, 0.0)} for i in range(6)}
    figures = draw_batch_size({"networks": networks, "taps": taps})
    for axes in figures["one-image"].axes:
        assert [line.get_label() for line in axes.lines] == [
            "statistics of training, in eval mode",
            "statistics of the batch",
        ]
    flat, moved = (line.get_ydata() for line in figures["one-image"].axes[0].lines)
    assert np.ptp(flat) < 1e-6 < np.ptp(moved)


def test_group_norm_does_not_notice_the_batch(networks):
    for row in networks["group norm"]["by_size"].values():
        assert row["distance"] < 1e-6
        assert row["accuracy_mixed"] == row["accuracy_alike"] == networks["group norm"]["accuracy_from_training"]


def test_statistics_of_the_batch_leave_those_of_training_as_they_are():
    images, labels = draw_discs(64, 16, generator(0))
    network = train("batch_norm", images, labels, 2, 0)
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    statistics_of_the_batch(network)(images)
    assert len(before) == 6
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


@pytest.mark.slow
def test_the_fewer_cells_a_tap_has_the_more_its_batch_norm_depends_on_the_batch():
    taps = measure_taps(0, in_silence)
    assert [tap["cells"] for tap in taps.values()] == [1444, 361, 100, 25, 9, 1]
    for tap in taps.values():
        distances = list(tap["distance"].values())
        assert distances == sorted(distances, reverse=True)
    last = taps["conv11_2"]["distance"]
    for name in ("conv4_3", "fc7", "conv8_2", "conv9_2"):
        assert last["2"] > 2 * taps[name]["distance"]["2"]
        assert last["16"] > taps[name]["distance"]["2"]
    assert taps["conv4_3"]["distance"]["2"] > 0.8 * taps["conv9_2"]["distance"]["2"]
