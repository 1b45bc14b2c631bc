"""Our parts in other detectors, other backbones in ours; parts that do not fit are refused."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from ssdnorm import SSD, MultiboxLoss, PostProcess, norm_layer, ssd300_vgg16
from ssdnorm.boxes.default_boxes import DEFAULT_BOXES, spread_default_boxes
from ssdnorm.models.features import BackboneMaps, SSDFeatures, TapNorms, tap_grids


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_our_features_have_torchvisions_contract_and_are_finite_on_zeros():
    features = ssd300_vgg16(3, width=0.02).features
    taps = features(torch.zeros(1, 3, 300, 300))
    assert isinstance(taps, OrderedDict)
    assert features.out_channels == [x.shape[1] for x in taps.values()]
    sum(x.sum() for x in taps.values()).backward()
    assert all(x.isfinite().all() for x in taps.values())
    assert all(p.grad.isfinite().all() for p in features.parameters())


def test_torchvisions_ssd_trains_on_our_features_with_its_own_default_boxes():
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD as TorchvisionSSD

    ratios = [[2], [2, 3], [2, 3], [2, 3], [2], [2]]
    features = ssd300_vgg16(3, width=0.02).features
    detector = TorchvisionSSD(features, DefaultBoxGenerator(ratios), size=(300, 300), num_classes=3).train()
    target = {"boxes": torch.tensor([[20.0, 30.0, 120.0, 140.0]]), "labels": torch.tensor([1])}
    sum(detector([torch.rand(3, 200, 240)], [target]).values()).backward()
    assert features.tap_norms["conv4_3"].weight.grad.any()


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_an_ssd_on_a_timm_backbone_trains_and_detects(name):
    timm = pytest.importorskip("timm")
    maps = BackboneMaps(timm.create_model(name, features_only=True, out_indices=(2, 3, 4)), ["s8", "s16", "s32"])
    features = SSDFeatures(maps, tap_norms={"s8": norm_layer("l2_norm")})
    model = SSD(features, spread_default_boxes(128, tap_grids(features, 128)), 3)
    assert model.spec.grid_sizes == (16, 8, 4)
    output = model(torch.rand(2, 3, 128, 128))
    parts = MultiboxLoss(model.default_boxes)(
        output, torch.tensor([[[0.1, 0.1, 0.6, 0.7]]] * 2), torch.tensor([[1], [2]])
    )
    sum(parts.values()).backward()
    assert features.tap_norms["s8"].weight.grad.any()
    assert len(PostProcess(model.default_boxes)(model.eval()(torch.rand(2, 3, 128, 128)), torch.full((2, 2), 128))) == 2


def test_spread_boxes_with_the_papers_scales_are_the_papers():
    paper = DEFAULT_BOXES["ssd300_voc"]
    spread = spread_default_boxes(
        300,
        paper.grid_sizes,
        first_scale=0.1,
        max_scale=0.88,
        steps=paper.steps,
        aspect_ratios=paper.aspect_ratios,
    )
    assert spread == paper


def two_maps() -> nn.Module:
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 6, 3, 2, 1)

        def forward(self, x):
            a = self.a(x)
            return [a, self.b(a)]

    return Two()


def test_grids_and_taps_that_do_not_fit_are_refused_when_the_ssd_is_built():
    features = SSDFeatures(BackboneMaps(two_maps()))
    assert features.tap_channels == {"map1": 4, "map2": 6}
    message = (
        r"grids \[\(8, 8\), \(4, 4\)\] do not fit the features' maps .*\(16, 16\).* at 64 pixels; spread_default_boxes"
    )
    with pytest.raises(ValueError, match=message):
        SSD(features, spread_default_boxes(64, (8, 4)), 3)
    with pytest.raises(ValueError, match=r"default boxes for 3 taps do not fit the 2 taps of the features: map1, map2"):
        SSD(features, spread_default_boxes(64, (16, 8, 4)), 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BackboneMaps(two_maps(), ["only"]), r"BackboneMaps: 1 names \(only\) for 2 maps"),
        (lambda: BackboneMaps(nn.Flatten()), r"BackboneMaps: map1: expected a map \(B, C, H, W\); got \(1, 196608\)"),
        (lambda: TapNorms({"p3": 4}, {"p4": nn.BatchNorm2d}), r"tap_norms: unknown tap 'p4'; choose one of: p3\."),
        (lambda: TapNorms({"p3": 4}, {})({"p4": 0}), r"TapNorms expects a map 'p3'; got p4"),
        (lambda: TapNorms({"p3": 4}, {})([0, 0]), r"TapNorms expects 1 maps \(p3\); got 2"),
        (
            lambda: spread_default_boxes(64, (8, 4), sizes=(30, 20, 40)),
            r"sizes: expected 3 rising numbers, one per tap and one more; got \[30, 20, 40\]",
        ),
        (
            lambda: spread_default_boxes(64, (8,), min_scale=0.95),
            r"scales must rise from above 0; got first None, min 0\.95",
        ),
        (lambda: spread_default_boxes(64, (8, 4), steps=(8,)), r"steps: expected 2 entries, one per tap; got 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(make, message):
    with pytest.raises(ValueError, match=message):
        make()
