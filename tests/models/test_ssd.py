"""The networks: published counts, shapes, taps, and what is refused."""

from dataclasses import astuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ssdnorm import DEFAULT_BOXES, NORMS, SSD, make_default_boxes, ssd300_vgg16, ssd512_vgg16
from ssdnorm.layers.norms import NormFactory, norm_layer, norm_parameters
from ssdnorm.models.checkpoint import save_checkpoint
from ssdnorm.models.extra_layers import extra_layers_for
from ssdnorm.models.head import MultiboxHead
from ssdnorm.models.ssd import ssd_vgg16, vgg16_default_boxes

TAPS = ["conv4_3", "fc7", "conv8_2", "conv9_2", "conv10_2", "conv11_2"]


def tiny(**changes) -> SSD:
    return ssd300_vgg16(4, **{"width": 0.02, "dropout": 0, **changes})


@pytest.mark.parametrize(("num_classes", "count"), [(21, 26_285_486), (81, 34_305_206), (91, 35_641_826)])
def test_the_number_of_parameters_is_torchvisions(num_classes, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in ssd300_vgg16(num_classes).parameters()) == count


def test_taps_have_the_papers_names_channels_and_sizes():
    model = tiny(tap_norms={})
    taps = model.features(torch.zeros(1, 3, 300, 300))
    assert list(taps) == TAPS
    assert [tuple(x.shape[-2:]) for x in taps.values()] == [(g, g) for g in (38, 19, 10, 5, 3, 1)]
    with torch.device("meta"):
        assert ssd300_vgg16(21).features.out_channels == [512, 1024, 512, 256, 256, 256]


@pytest.mark.parametrize("name", ["ssd300_voc", "ssd300_coco", "ssd512_voc", "ssd512_coco"])
def test_the_rule_for_any_size_makes_the_papers_networks(name):
    spec = DEFAULT_BOXES[name]
    assert vgg16_default_boxes(spec.image_size, sizes=(*spec.min_sizes, spec.max_sizes[-1])) == spec
    paper = ssd300_vgg16 if spec.image_size == 300 else ssd512_vgg16
    with torch.device("meta"):
        one = paper(3, default_boxes=name, width=0.1).state_dict()
        other = ssd_vgg16(3, spec.image_size, default_boxes=name, width=0.1).state_dict()
    assert {key: value.shape for key, value in one.items()} == {key: value.shape for key, value in other.items()}


@pytest.mark.parametrize(("paper", "default_boxes"), [(ssd300_vgg16, "ssd300_voc"), (ssd512_vgg16, "ssd512_voc")])
def test_the_papers_networks_have_vocs_boxes_unless_told_otherwise_and_are_built_again_by_their_own_name(
    paper, default_boxes
):
    with torch.device("meta"):
        model = paper(3, width=0.1)
    assert model.spec == DEFAULT_BOXES[default_boxes]
    assert model.arguments["name"] == paper.__name__


def test_the_papers_networks_have_the_papers_extra_layers():
    def numbers(cells):
        return [astuple(layer)[1:] for layer in extra_layers_for(cells, cells)]

    assert numbers(19) == [(256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0)]
    assert numbers(32) == [(256, 512, 3, 2, 1), *[(128, 256, 3, 2, 1)] * 3, (128, 256, 4, 1, 1)]


@settings(max_examples=25)
@given(st.integers(32, 700), st.integers(32, 700))
def test_any_size_builds_and_its_maps_end_in_one_cell_along_the_shorter_side(height, width):
    with torch.device("meta"):
        model = ssd_vgg16(2, (height, width), width=0.01)  # SSD checks the grids against the network's own
    assert min(model.spec.grids[-1]) == 1
    boxes = make_default_boxes(model.spec)
    assert (boxes[:, :2] > 0).all()
    # a centre lies at most half a cell beyond the picture, up to the rounding of float32
    down, across = (
        max(step[axis] if isinstance(step, tuple) else step for step in model.spec.steps) for axis in (0, 1)
    )
    assert (boxes[:, :2] <= 1 + 0.5 * torch.tensor([across / width, down / height]) + 1e-6).all()


def test_a_rectangle_takes_height_then_width():
    model = ssd_vgg16(3, (96, 160), width=0.02, tap_norms={})
    assert [tuple(x.shape[-2:]) for x in model.features(torch.zeros(1, 3, 96, 160)).values()] == [
        (12, 20), (6, 10), (3, 5), (1, 3)
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"SSD expects images \(B, 3, 96, 160\); got \(1, 3, 160, 96\)"):
        model(torch.zeros(1, 3, 160, 96))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ssd_vgg16(2, 31), "image_size: expected 32 pixels or more; got"),
        (lambda: ssd_vgg16(2, (300, 300, 3)), r"image_size: expected pixels, 1 or more, or \(height, width\)"),
        (lambda: ssd_vgg16(2, 160, default_boxes="ssd300_voc"), "default_boxes: are for 300 pixels; the network takes"),
        (lambda: ssd_vgg16(2, 160, default_boxes={"sizes": [8, 16]}), "sizes: expected 6 rising numbers"),
        (lambda: ssd_vgg16(2, 160, default_boxes={"steps": [8]}), "steps: expected 5 entries, one per tap; got 1"),
        (
            lambda: ssd_vgg16(2, 160, tap_norms={"conv11_2": "l2_norm"}),
            "unknown tap 'conv11_2'; choose one of: conv4_3",
        ),
    ],
)
def test_a_size_that_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message), torch.device("meta"):
        make()


def test_bytes_and_floats_give_the_same_output():
    model = tiny().eval()
    images = torch.randint(0, 256, (2, 3, 300, 300), dtype=torch.uint8)
    torch.testing.assert_close(model(images).logits, model(images / 255).logits)


def test_input_statistics_are_applied_per_channel_and_saved():
    model = tiny()
    model.image_mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    model.image_std.copy_(torch.tensor([0.5, 0.6, 0.7]))
    pixel = model.normalize(torch.tensor([0.4, 0.5, 0.9]).view(1, 3, 1, 1)).flatten().tolist()
    assert pixel == pytest.approx([0.3 / 0.5, 0.3 / 0.6, 0.6 / 0.7])
    assert {"image_mean", "image_std"} <= set(model.state_dict())
    assert "default_boxes" not in model.state_dict()


def test_the_head_orders_rows_cells_boxes_and_then_classes():
    head = MultiboxHead({"a": 1}, [2], num_classes=3)
    with torch.no_grad():
        for convs, width in ((head.locs, 4), (head.logits, 3)):
            convs["a"].weight.zero_()
            convs["a"].weight[:, 0, 1, 1] = 1.0  # copies the cell's value ...
            convs["a"].bias.copy_(1000.0 * torch.arange(2 * width))  # ... and marks box and class
    x = torch.arange(6.0).view(1, 1, 2, 3)
    output = head({"a": x})
    for values, width in ((output.locs, 4), (output.logits, 3)):
        expected = torch.tensor(
            [[[cell + 1000.0 * (box * width + i) for i in range(width)]] for cell in range(6) for box in range(2)]
        )
        assert torch.equal(values, expected.view(1, 12, width))


def test_the_fc7_tap_is_taken_before_the_dropout_and_the_extras_after_it():
    torch.manual_seed(0)
    model = tiny(dropout={"fc6": 0, "fc7": 0.9}, tap_norms={}).train()
    seen = {}
    model.features.extras.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    tap = model.features(torch.rand(1, 3, 300, 300))["fc7"]
    dropped = seen["x"] == 0
    assert 0.8 < dropped.float().mean() < 1
    assert (tap[dropped] != 0).any()
    torch.testing.assert_close(seen["x"][~dropped], tap[~dropped] / 0.1)


def test_dropout_zero_leaves_no_dropout_behind_and_one_half_leaves_two():
    for dropout, count in ((0, 0), (0.5, 2), ({"fc6": 0.3}, 1)):
        model = tiny(dropout=dropout)
        assert sum(isinstance(m, nn.Dropout) for m in model.modules()) == count


@pytest.mark.parametrize("norm", [*sorted(NORMS.keys() - {"group_norm"}), {"kind": "group_norm", "groups": 2}], ids=str)
def test_a_weight_has_one_name_and_one_initial_value_under_every_norm(norm):
    plain, other = tiny(), tiny(backbone_norm=norm, extras_norm=norm, tap_norms={"fc7": norm})
    shared = [name for name, _ in plain.named_parameters() if "conv.weight" in name or "head." in name]
    assert len(shared) == 23 + 24
    state = other.state_dict()
    for name in shared:
        assert torch.equal(plain.state_dict()[name], state[name]), name


def test_initial_weights_depend_on_the_seed_and_differ_between_layers():
    weights = [tiny(seed=seed).state_dict()["features.backbone.conv5_1.conv.weight"] for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], tiny().state_dict()["features.backbone.conv5_2.conv.weight"])


def test_initial_weights_have_the_spread_of_he_and_of_glorot():
    state = ssd300_vgg16(4, width=0.25).state_dict()
    fc6 = state["features.backbone.fc6.conv.weight"]
    assert fc6.std().item() == pytest.approx((2 / (fc6.shape[1] * 9)) ** 0.5, rel=0.02)
    extra = state["features.extras.conv8_2.conv.weight"]
    assert extra.abs().max().item() == pytest.approx((6 / (9 * (extra.shape[0] + extra.shape[1]))) ** 0.5, rel=0.02)
    assert state["features.backbone.fc6.conv.bias"].abs().max() == 0


@pytest.mark.parametrize("norm", [norm_layer("batch_norm"), nn.BatchNorm2d, lambda channels: nn.BatchNorm2d(channels)])
def test_a_norm_may_be_a_factory_a_class_or_a_function(norm, tmp_path):
    model = tiny(backbone_norm=norm, extras_norm=norm, tap_norms={"fc7": norm})
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 15 + 8 + 1
    assert {name for name in norm_parameters(model) if "tap_norms" in name} == {
        "features.tap_norms.fc7.weight", "features.tap_norms.fc7.bias"
    }  # fmt: skip
    if isinstance(norm, NormFactory):
        save_checkpoint(tmp_path / "m", model, class_names="abc", post_process={})
        return
    with pytest.raises(ValueError, match="with norms by spec, not folded, can be built again"):
        save_checkpoint(tmp_path / "m", model, class_names="abc", post_process={})


def test_features_that_round_the_pool_down_are_refused_at_build_time():
    class Features(nn.Module):
        tap_channels = dict.fromkeys(TAPS, 1)

        def forward(self, images):
            return {name: images[:, :1, :g, :g] for name, g in zip(TAPS, (37, 18, 9, 5, 3, 1), strict=True)}

    with pytest.raises(ValueError, match=r"grids \[\(38, 38\).* do not fit the features' maps \{'conv4_3': \(37, 37\)"):
        SSD(Features(), "ssd300_voc", 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 1.0}, r"dropout: fc6: must lie in \[0, 1\); got 1.0"),
        ({"dropout": {"fc8": 0.5}}, r"dropout: unknown layer 'fc8'; choose one of: fc6, fc7"),
        ({"width": 0}, r"width: must be above 0; got 0"),
        ({"backbone_norm": "batchnorm"}, r"backbone_norm: unknown norm 'batchnorm'.*Did you mean 'batch_norm'"),
        ({"default_boxes": "ssd300"}, r"default_boxes: unknown default boxes 'ssd300'"),
        ({"default_boxes": "ssd512_voc"}, r"default_boxes: are for 512 pixels; the network takes 300"),
        ({"tap_norms": {"conv4_4": "l2_norm"}}, r"tap_norms: unknown tap 'conv4_4'; choose one of: .* mean 'conv4_3'"),
        ({"tap_norms": "l2_norm"}, "tap_norms: expected norms by tap, .*; got 'l2_norm'"),
        ({"tap_norms": None}, "tap_norms: expected norms by tap"),
        ({"dropout": None}, "dropout: fc6: must lie in .*; got None"),
        ({"backbone_norm": nn.BatchNorm2d(3)}, "backbone_norm: expected a norm name or a mapping .*; got BatchNorm"),
        ({"backbone_norm": lambda channels: channels}, "backbone_norm: <lambda>: expected a Module from"),
    ],
)
def test_what_cannot_be_honoured_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def test_images_of_another_size_or_type_are_refused():
    with pytest.raises(ValueError, match=r"SSD expects images \(B, 3, 300, 300\); got \(1, 3, 512, 512\)"):
        tiny()(torch.zeros(1, 3, 512, 512))
    with pytest.raises(ValueError, match=r"uint8 images, or floats in \[0, 1\]; got torch.int64"):
        tiny()(torch.zeros(1, 3, 300, 300, dtype=torch.int64))
