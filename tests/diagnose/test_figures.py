"""Figures and tables: what stands in them is what was measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import ssdnorm
from ssdnorm.diagnose.activations import activation_statistics, activation_table
from ssdnorm.diagnose.batch_norm_advice import batch_norm_report, batch_norm_table
from ssdnorm.diagnose.figures import plot_batch_norm, plot_depth, plot_lengths, plot_scales
from ssdnorm.diagnose.layers import block_of, default_layers, find_layers, scale_table

LAYERS = ["conv1_1", "conv4_3", "fc7", "tap conv4_3", "tap fc7"]


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    model = ssdnorm.ssd300_vgg16(3, width=0.02, tap_norms={"conv4_3": {"kind": "l2_norm", "scale": 3.0}})
    images = torch.rand(2, 3, 300, 300)
    return activation_statistics(model, [images], layers=LAYERS, loss=lambda output, _: output.logits.square().sum())


def texts(figure):
    return [t.get_text() for ax in figure.axes for t in (*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels())]


def test_lengths_stand_beside_their_tap_before_and_after_its_norm(found):
    figure = plot_lengths({"one": found, "two": found})
    words = texts(figure)
    before = found.activations["conv4_3"].length_quantiles[0.5]
    after = found.activations["tap conv4_3"].length_quantiles[0.5]
    assert words.count(f"{before:.3g} → {after:.3g}") == 2
    assert words.count(f"{found.activations['fc7'].length_quantiles[0.5]:.3g}") == 2  # no norm there: one number
    assert {"conv4_3", "fc7"} <= set(words)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"]


def test_depth_draws_the_medians_in_the_order_of_the_data_and_mean_gradients_below(found):
    figure = plot_depth({"one": found})
    upper, lower = figure.axes
    names = ["conv1_1", "conv4_3", "fc7"]
    medians = [found.activations[name].length_quantiles[0.5] for name in names]
    gradients = [found.gradients[name].length_mean for name in names]
    np.testing.assert_allclose(upper.lines[0].get_ydata(), medians)
    np.testing.assert_allclose(lower.lines[0].get_ydata(), gradients)
    assert [label.get_text() for label in lower.get_xticklabels()] == names


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_network_without_a_positive_length_is_drawn(value, tmp_path):
    found = activation_statistics(nn.Sequential(nn.Identity(), nn.ReLU()), [torch.full((1, 3, 4, 4), value)])
    for name, plot in (("depth", plot_depth), ("lengths", plot_lengths)):
        plot({"one": found}).savefig(tmp_path / f"{name}.png")


def test_taps_alone_have_figures_too(found, tmp_path):
    taps = {name: row for name, row in found.activations.items() if name.startswith("tap ")}
    for plot in (plot_depth, plot_lengths):
        plot({"one": replace(found, activations=taps, gradients={})}).savefig(tmp_path / "figure.png")


def test_scales_are_drawn_sorted_with_the_initial_value_as_a_line():
    weights = {"a": {"conv4_3": torch.tensor([12.0, 10.0, 11.0])}, "b": {"conv4_3": torch.full((3,), 20.0)}}
    figure = plot_scales(weights, {"conv4_3": 20.0})
    first, second, initial = figure.axes[0].lines
    assert first.get_ydata().tolist() == [10.0, 11.0, 12.0]
    assert second.get_ydata().tolist() == [20.0, 20.0, 20.0]
    assert set(initial.get_ydata()) == {20.0}


def test_the_table_has_a_line_for_each_layer_with_its_median_and_gradient(found):
    lines = activation_table(found).splitlines()
    assert len(lines) == 1 + len(LAYERS)
    (line,) = [line for line in lines if line.startswith("conv4_3")]
    row = found.activations["conv4_3"]
    assert f"{row.length_quantiles[0.5]:.4g}" in line.split()
    assert line.split()[-1] == f"{found.gradients['conv4_3'].length_mean:.3g}"
    scales = scale_table({"conv4_3": torch.tensor([1.0, 3.0])}, {"conv4_3": 20.0}).splitlines()[1].split()
    assert scales == ["conv4_3", "20", "2.000", "1.000", "1.000", "3.000"]


def test_batch_norm_is_drawn_and_written_layer_by_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
    report, _ = batch_norm_report(model, list(torch.randn(4, 4, 3, 8, 8)))
    figure = plot_batch_norm(report)
    means = figure.axes[0].lines[0].get_ydata()
    assert means.tolist() == [row.running.mean_shift for row in report.layers]
    lines = batch_norm_table(report).splitlines()
    assert lines[1].startswith("1 ")
    assert lines[2].startswith("4 ")
    assert lines[-1].startswith("advice: ")


def test_a_tap_of_a_backbone_without_named_blocks_is_seen_before_and_after_its_norm():
    from ssdnorm.models.features import BackboneMaps, SSDFeatures

    features = SSDFeatures(BackboneMaps(nn.Conv2d(3, 8, 3, stride=8)), tap_norms={"map1": ssdnorm.L2Norm})
    found = activation_statistics(features, [torch.rand(1, 3, 64, 64)])
    assert list(found.activations) == ["map1", "tap map1"]
    assert found.activations["tap map1"].length_mean == pytest.approx(20, rel=1e-4)
    assert found.activations["map1"].length_mean != pytest.approx(20, rel=0.1)


def test_any_module_can_be_named_and_a_near_miss_is_guessed():
    model = ssdnorm.ssd300_vgg16(3, width=0.02)
    assert find_layers(model, ["features.backbone.conv4_3.conv"])
    assert len(default_layers(model)) == 23 + 6
    with pytest.raises(ValueError, match=r"layers: no layer 'tap conv43'; .* Did you mean 'tap conv4_3'\?"):
        find_layers(model, ["tap conv43"])


@pytest.mark.parametrize("prefix", ["", "model._orig_mod."])
def test_every_parameter_of_an_ssd_has_a_block_under_any_wrapper(prefix):
    model = ssdnorm.ssd300_vgg16(3, width=0.02, backbone_norm="batch_norm")
    blocks = {block_of(prefix + name) for name, _ in model.named_parameters()}
    expected = {*(f"conv{i}" for i in (1, 2, 3, 4, 5, 8, 9, 10, 11)), "fc6", "fc7", "head", "tap_norms"}
    assert blocks == expected
    assert block_of(f"{prefix}something.else") is None
