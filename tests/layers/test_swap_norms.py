"""swap_norms on our blocks, torchvision's detectors and timm's networks."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

from ssdnorm.layers import ConvBlock, L2Norm, norm_layer, swap_norms
from tests.layers.distinct import with_distinct_values


def small_model(kind="batch_norm"):
    torch.manual_seed(0)

    def norm(channels):
        return with_distinct_values(norm_layer(kind)(channels))

    return nn.Sequential(ConvBlock(3, 8, 3, norm=norm), ConvBlock(8, 8, 3, norm=norm))


@pytest.mark.parametrize("new", ["frozen_batch_norm", "sync_batch_norm", {"kind": "batch_norm", "momentum": 0.01}])
def test_between_batch_norms_the_evaluation_stays_the_same(new):
    model = small_model({"kind": "batch_norm", "eps": 1e-2}).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    rows = swap_norms(model, old="batch_norm", new=new)
    assert [row.name for row in rows] == ["0.norm", "1.norm"]
    assert {"weight", "bias", "running_mean", "running_var", "eps"} <= set(rows[0].kept)
    torch.testing.assert_close(model(x), expected)


def test_affine_weights_are_kept_and_the_report_says_what_was_not():
    model = small_model()
    weight = model[0].norm.weight.detach().clone()
    (row, _) = swap_norms(model, old="batch_norm", new={"kind": "group_norm", "groups": 2})
    assert (row.old, row.new, row.channels, row.kept) == ("BatchNorm2d", "GroupNorm", 8, ("weight", "bias"))
    assert row.dropped == ("running_mean", "running_var", "num_batches_tracked")
    assert torch.equal(model[0].norm.weight, weight)
    assert model[0].norm.num_groups == 2


def test_a_length_is_not_taken_for_a_factor():
    model = small_model()
    (row, _) = swap_norms(model, old="batch_norm", new="l2_norm")
    assert row.kept == ()
    assert model[1].norm.weight.tolist() == [20.0] * 8
    (row, _) = swap_norms(model, old=L2Norm, new="rms_norm")
    assert row.dropped == ("weight",)
    assert model[1].norm.weight.tolist() == [1.0] * 8


def test_device_dtype_and_mode_are_those_of_the_old_norm():
    model = small_model().double().eval()
    swap_norms(model, old="batch_norm", new="layer_norm")
    assert model[0].norm.weight.dtype == torch.float64
    assert not model[0].norm.training


def test_a_model_without_norms_is_refused():
    with pytest.raises(ValueError, match=r"matches nothing in Sequential; it has: no norm at all"):
        swap_norms(small_model("none"), old="batch_norm", new="group_norm")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batchnorm", "none", r"old='batchnorm' is unknown; choose one of: batch_norm"),
        ("group_norm", "none", r"old='group_norm' matches nothing in Sequential; it has: BatchNorm2d"),
        ("none", "l2_norm", r"old='none' leaves nothing to replace"),
        ("batch_norm", "groupnorm", r"swap_norms: new: unknown norm 'groupnorm'; .* Did you mean 'group_norm'\?"),
        ("batch_norm", "group_norm", r"swap_norms: new: group_norm for 8 channels: 32 groups do not divide"),
    ],
)
def test_a_mistake_is_refused_before_anything_changes(old, new, message):
    model = small_model()
    with pytest.raises(ValueError, match=message):
        swap_norms(model, old=old, new=new)
    assert all(isinstance(block.norm, nn.BatchNorm2d) for block in model)


@pytest.mark.parametrize("detector", [fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn])
def test_swaps_the_frozen_norms_of_torchvisions_detectors(detector):
    model = detector(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64)
    old = FrozenBatchNorm2d if any(isinstance(m, FrozenBatchNorm2d) for m in model.modules()) else nn.BatchNorm2d
    count = sum(isinstance(m, old) for m in model.modules())
    rows = swap_norms(model, old=old, new="group_norm")
    assert len(rows) == count == sum(type(m) is nn.GroupNorm for m in model.backbone.modules())
    with torch.no_grad():
        (detections,) = model.eval()([torch.rand(3, 64, 64)])
    assert set(detections) == {"boxes", "scores", "labels"}


def test_a_shared_norm_stays_shared():
    norm = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)})
    assert len(swap_norms(model, old="batch_norm", new="rms_norm")) == 1
    assert model["a"] is model["b"][0]


def test_a_norm_with_an_activation_inside_is_refused_unless_named():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4))
    with pytest.raises(ValueError, match=r"1 is a BatchNormAct2d, which may do more than normalise; name it"):
        swap_norms(model, old="batch_norm", new="rms_norm")
    assert len(swap_norms(model, old=layers.BatchNormAct2d, new="rms_norm")) == 1


def test_eps_and_momentum_stay_unless_the_spec_says_another():
    def swapped(new):
        model = nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.03))
        (row,) = swap_norms(model, old="batch_norm", new=new)
        return model[0], row.kept

    norm, kept = swapped("sync_batch_norm")
    assert (norm.eps, norm.momentum) == (1e-3, 0.03)
    assert {"eps", "momentum"} <= set(kept)
    for new in ({"kind": "frozen_batch_norm", "eps": 1e-5}, norm_layer({"kind": "frozen_batch_norm", "eps": 1e-5})):
        norm, kept = swapped(new)
        assert norm.eps == 1e-5
        assert "eps" not in kept
