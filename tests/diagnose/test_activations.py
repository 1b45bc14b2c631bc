"""Activation statistics: against plain formulas, on foreign models, and a model left exactly as it was."""

import json
import math

import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import ssdnorm
from ssdnorm.diagnose import activation_statistics, feature_maps
from ssdnorm.diagnose.activations import activation_table
from ssdnorm.diagnose.feature_maps import QUANTILES
from ssdnorm.diagnose.figures import plot_depth, plot_lengths
from ssdnorm.diagnose.layers import default_layers


def small_ssd(**options):
    return ssdnorm.ssd300_vgg16(4, width=0.03, **options)


def images(n=2, seed=0):
    return torch.rand(n, 3, 300, 300, generator=torch.Generator().manual_seed(seed))


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def test_the_numbers_are_those_of_all_images_together():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([3.0, 0.1, -900.0, 0.0, 1.0]))  # channel 2 is dead after the ReLU
    batches = [torch.randn(4, 3, 8, 9), torch.randn(1, 3, 8, 9), 20 * torch.randn(2, 3, 5, 6)]
    found = activation_statistics(model, batches, layers=["0", "1", "2"])
    assert found.num_images == 7
    for name, depth in (("0", 1), ("1", 2), ("2", 3)):
        maps = [model[:depth].eval()(batch) for batch in batches]
        values = torch.cat([m.flatten() for m in maps]).double()
        positions = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, 5) for m in maps]).double()
        lengths = torch.tensor([math.sqrt(sum(v * v for v in p.tolist())) for p in positions])
        row = found.activations[name]
        assert (row.channels, row.calls, row.non_finite) == (5, 3, 0)
        assert row.mean == pytest.approx(values.mean().item(), rel=1e-5)
        assert row.std == pytest.approx(values.std(correction=0).item(), rel=1e-5)
        assert row.rms == pytest.approx(values.square().mean().sqrt().item(), rel=1e-5)
        assert row.length_mean == pytest.approx(lengths.mean().item(), rel=1e-5)
        assert row.zero_positions == pytest.approx((lengths == 0).double().mean().item(), abs=1e-9)
        assert row.dead_channels == pytest.approx(0.2 if name == "2" else 0.0)
        for q in QUANTILES:
            nearest = lengths.sort().values[int(q * (len(lengths) - 1))].item()
            assert row.length_quantiles[q] == pytest.approx(nearest, rel=1e-5), q
        assert sum(row.histogram.counts) + row.histogram.zeros == len(lengths)


def test_gradients_are_those_of_the_loss_at_each_map_in_place_layers_or_not():
    torch.manual_seed(0)
    x, weights = torch.randn(3, 3, 6, 6), torch.randn(3, 4, 4, 4)
    found = {}
    for inplace in (True, False):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=inplace))
        found[inplace] = activation_statistics(model, [x], loss=lambda output, batch: (output * weights).sum())
        assert all(p.grad is None for p in model.parameters())
    before = model[0](x)
    by_hand = weights * (before > 0)
    for result in found.values():
        assert result.gradients["1"].rms == pytest.approx(weights.square().mean().sqrt().item(), rel=1e-5)
        assert result.gradients["0"].rms == pytest.approx(by_hand.square().mean().sqrt().item(), rel=1e-5)
        assert result.gradients["0"].mean == pytest.approx(by_hand.mean().item(), rel=1e-4)


def test_an_ssd_is_told_by_the_papers_names_and_its_taps_after_their_norm():
    model = small_ssd(tap_norms={"conv4_3": {"kind": "l2_norm", "scale": 5.0}})
    found = activation_statistics(model, [images()])
    names = list(found.activations)
    assert [name for name in names if not name.startswith("tap ")] == [
        "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv4_1", "conv4_2", "conv4_3",
        "conv5_1", "conv5_2", "conv5_3", "fc6", "fc7", "conv8_1", "conv8_2", "conv9_1", "conv9_2", "conv10_1",
        "conv10_2", "conv11_1", "conv11_2",
    ]  # fmt: skip
    assert names[-6:] == [f"tap {name}" for name in model.features.tap_channels]
    tap = found.activations["tap conv4_3"]
    assert tap.length_quantiles[0.5] == pytest.approx(5.0, rel=1e-5)
    assert tap.length_mean == pytest.approx(5 * (1 - tap.zero_positions), rel=1e-3)
    assert found.activations["tap fc7"].length_mean == found.activations["fc7"].length_mean


@pytest.mark.parametrize(("train_mode", "failing"), [(False, True), (True, False)])
def test_the_model_is_as_it_was(train_mode, failing):
    model = small_ssd(backbone_norm="batch_norm", dropout=0.5)
    model.features.extras.eval()  # a mixed state
    model.head.locs["fc7"].weight.requires_grad_(False)
    model.head.logits["fc7"].bias.grad = torch.ones_like(model.head.logits["fc7"].bias)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    trained = [p.requires_grad for p in model.parameters()]
    random, grad_enabled = torch.get_rng_state(), torch.is_grad_enabled()

    def loss(output, batch):
        if failing:
            raise RuntimeError("no loss today")
        return output.logits.sum()

    if failing:
        with pytest.raises(RuntimeError, match=r"no loss today"):
            activation_statistics(model, [images()], loss=loss, train_mode=train_mode)
    else:
        activation_statistics(model, [images()], loss=loss, train_mode=train_mode)
    assert hooks_of(model) == 0
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == trained
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled() == grad_enabled
    assert (model.head.logits["fc7"].bias.grad == 1).all()
    assert model.head.locs["conv4_3"].weight.grad is None
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_buffer_that_forward_replaces_is_put_back():
    class Averaging(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("ema", torch.tensor(1.0))
            self.register_buffer("first", None)

        def forward(self, x):
            self.ema.add_(0.5)  # its values first, then the tensor
            self.ema = 0.9 * self.ema + 0.1 * x.mean()
            self.first = x if self.first is None else self.first
            return x + self.ema

    model, x = nn.Sequential(Averaging(), nn.Identity()), torch.full((1, 1, 2, 2), 11.0)
    ema = model[0].ema
    found = activation_statistics(model, [x])
    assert found.activations["0"].mean == pytest.approx(11 + 0.9 * 1.5 + 0.1 * 11)  # it ran
    assert model[0].ema is ema
    assert ema == 1.0
    assert model[0].first is None
    assert list(model.state_dict()) == ["0.ema"]


def test_values_beyond_float16_are_counted_and_do_not_hide():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False)).half()
    nn.init.constant_(model[0].weight, 300.0)
    finite = activation_statistics(model, [torch.full((1, 1, 2, 2), 100.0, dtype=torch.half)], layers=["0"])
    assert finite.activations["0"].length_mean == pytest.approx(math.hypot(30000, 30000), rel=1e-3)  # not overflowed
    overflowing = torch.tensor([[[[1.0, 300.0]]]], dtype=torch.half)
    row = activation_statistics(model, [overflowing], layers=["0"]).activations["0"]
    assert row.non_finite == 1
    assert row.length_quantiles[0.5] == pytest.approx(math.hypot(300, 300), rel=1e-5)
    assert row.as_json()["mean"] is None
    row = activation_statistics(model, [torch.full((1, 1, 2, 2), math.nan).half()], layers=["0"]).activations["0"]
    assert (row.non_finite, row.histogram.counts, row.as_json()["length_quantiles"]["0.5"]) == (4, [], None)


def test_above_a_number_of_positions_quantiles_are_those_of_drawn_ones_and_means_of_all(monkeypatch):
    monkeypatch.setattr(feature_maps, "_MOST_LENGTHS", 4000)
    batches = [torch.arange(first, first + 3200.0).reshape(1, 1, 40, 80) for first in range(0, 32000, 3200)]
    row = activation_statistics(nn.Sequential(nn.Identity()), batches).activations["0"]
    values = torch.arange(32000.0)
    assert (row.mean, row.calls) == (pytest.approx(15999.5), 10)
    assert row.std == pytest.approx(values.std(correction=0).item())
    assert row.rms == pytest.approx(values.square().mean().sqrt().item())
    assert (row.length_mean, row.zero_positions) == (pytest.approx(15999.5), 1 / 32000)
    for q, value in row.length_quantiles.items():
        assert value == pytest.approx(
            32000 * q, abs=1600
        )  # over four standard errors of the 2000 or more that are kept
    assert 1800 < sum(row.histogram.counts) + row.histogram.zeros <= 4000


def test_a_frozen_layer_still_shows_the_gradient_of_what_is_trained_before_it():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)).requires_grad_(False)
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"no gradients: the loss depends on no trained parameter"):
        activation_statistics(model, [x], loss=lambda output, batch: output.sum())
    model[0].requires_grad_(True)
    found = activation_statistics(model, [x], loss=lambda output, batch: output.sum())
    assert sorted(found.gradients) == ["0", "1"]
    model.requires_grad_(False)[1].requires_grad_(True)
    assert list(activation_statistics(model, [x], loss=lambda output, batch: output.sum()).gradients) == ["1"]


def test_measuring_works_inside_inference_mode():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with torch.inference_mode():
        found = activation_statistics(model, [torch.randn(1, 3, 8, 8)])
    assert found.activations["0"].calls == 1


def test_what_cannot_be_measured_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"no images: the batches are empty"):
        activation_statistics(model, [])
    with pytest.raises(ValueError, match=r"no layer 'conv43'.* Did you mean 'conv4_3'\?"):
        activation_statistics(small_ssd(), [images(1)], layers=["conv43"])
    with pytest.raises(ValueError, match=r"has no values: 0\.weight and 1 others are on the meta device"):
        activation_statistics(nn.Sequential(nn.Conv2d(3, 4, 3, device="meta")), [x])
    with pytest.raises(ValueError, match=r"a TorchScript runs no hooks"):
        activation_statistics(torch.jit.trace(model, x), [x])
    ssd = small_ssd()
    with pytest.raises(ValueError, match=r"features\.backbone\.fc7: no map .* parts may be called one by one"):
        activation_statistics(ssd, [images(1)], layers=["features.backbone.fc7"])  # its forward is never called
    assert hooks_of(ssd) == 0


def test_maps_of_another_width_are_counted_under_a_name_of_their_own():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.same = nn.Identity()

        def forward(self, x):
            return self.same(self.same(self.same(self.conv(x)))[:, :1])

    torch.manual_seed(0)
    model, x, weights = Reused(), torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4)
    found = activation_statistics(model, [x, x], layers=["same"], loss=lambda output, batch: (output * weights).sum())
    y = model.conv(x)
    assert [(name, row.channels, row.calls) for name, row in found.activations.items()] == [
        ("same", 3, 4),
        ("same (1 channels)", 1, 2),
    ]
    assert found.activations["same"].mean == pytest.approx(y.mean().item(), rel=1e-5)
    assert found.activations["same (1 channels)"].mean == pytest.approx(y[:, :1].mean().item(), rel=1e-5)
    assert {name: row.channels for name, row in found.gradients.items()} == {"same": 3, "same (1 channels)": 1}
    assert found.gradients["same (1 channels)"].mean == pytest.approx(weights.mean().item(), rel=1e-5)
    assert found.gradients["same"].mean == pytest.approx(weights.mean().item() / 3, rel=1e-5)


def test_faster_r_cnn_is_measured_at_every_layer_with_tables_figures_and_json():
    torch.manual_seed(0)
    model = fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64, rpn_post_nms_top_n_train=10
    ).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    target = {"boxes": torch.tensor([[5.0, 5.0, 40.0, 40.0]]), "labels": torch.tensor([1])}
    found = activation_statistics(
        model,
        [([torch.rand(3, 64, 64)], [target])],
        layers=[*default_layers(model), "backbone"],
        forward=lambda m, batch: m(*batch),
        loss=lambda losses, batch: sum(losses.values()),
        train_mode=True,
    )
    name = "backbone.body.layer4.2.relu"  # of a Bottleneck: after its first two norms, and after the sum
    narrow, wide = found.activations[name], found.activations[f"{name} (2048 channels)"]
    assert (narrow.channels, narrow.calls, wide.channels, wide.calls) == (512, 2, 2048, 1)
    assert {key: row.channels for key, row in found.gradients.items()}.items() <= {
        key: row.channels for key, row in found.activations.items()
    }.items()
    assert found.activations["rpn.head.cls_logits"].calls == 5  # one head on five maps
    maps = [f"backbone[{key}]" for key in ("0", "1", "2", "3", "pool")]
    assert [key for key in found.activations if key.startswith("backbone[")] == maps
    assert (found.num_images, found.never_called) == (1, ())
    assert hooks_of(model) == 0
    assert not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert f"{name} (2048 channels)" in activation_table(found)
    json.dumps({key: row.as_json() for key, row in found.activations.items()}, allow_nan=False)
    labels = [label.get_text() for label in plot_lengths({"one": found}, [name]).axes[0].get_yticklabels()]
    assert labels == [name, f"{name} (2048 channels)"]
    labels = [label.get_text() for label in plot_depth({"one": found}).axes[-1].get_xticklabels()]
    assert labels == list(found.activations)
