"""Frozen batch norm, the check of statistics over one value, and momentum conversion."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ssdnorm.layers import (
    ConvBlock,
    FrozenBatchNorm,
    check_batch_statistics,
    freeze_batch_norm,
    momentum_from_caffe,
    momentum_from_tensorflow,
    norm_layer,
)
from tests.layers.distinct import with_distinct_values


def last_maps(name):
    """A stand-in for SSD's end: 3×3 -> 1×1."""
    model = nn.Sequential()
    model.add_module("conv10_2", ConvBlock(3, 32, 3, norm=norm_layer(name), padding=1))
    model.add_module("conv11_2", ConvBlock(32, 32, 3, norm=norm_layer(name)))
    return model


@pytest.mark.parametrize(
    ("name", "batch", "world_size", "message"),
    [
        ("batch_norm", 1, 1, r"BatchNorm2d would take statistics over 1 value per channel \(batch 1, map 1×1\)\. Ways "
         r"out: batch norm: a bigger batch.*frozen_batch_norm, group_norm, or none there"),
        ("batch_norm", 1, 2, "BatchNorm2d would"),
        ("sync_batch_norm", 1, 1, "SyncBatchNorm would"),
        ("instance_norm", 2, 1, "InstanceNorm would take statistics over 1 value"),
        ("group_norm", 1, 1, "GroupNorm .* 1 value per group .*group norm: fewer groups"),
        ("group_norm", 4, 1, "GroupNorm .* 1 value per group"),
    ],
)  # fmt: skip
def test_statistics_over_one_value_on_a_1x1_map_are_refused_with_layer_and_ways_out(name, batch, world_size, message):
    with pytest.raises(ValueError, match=rf"conv11_2\.norm: {message}") as error:
        check_batch_statistics(last_maps(name), (batch, 3, 3, 3), world_size=world_size)
    assert "conv10_2" not in str(error.value)


ONE_IMAGE = ["none", "l2_norm", "frozen_batch_norm", {"kind": "group_norm", "groups": 16}, "layer_norm", "rms_norm"]


@pytest.mark.parametrize(
    ("spec", "batch", "world_size"),
    [*((spec, 1, 1) for spec in ONE_IMAGE), ("batch_norm", 2, 1), ("sync_batch_norm", 1, 2)],
)
def test_norms_without_batch_statistics_pass_with_one_image_and_others_with_two(spec, batch, world_size):
    check_batch_statistics(last_maps(spec), (batch, 3, 3, 3), world_size=world_size)


def test_layers_in_eval_mode_and_frozen_ones_are_left_out():
    model = last_maps("batch_norm")
    model.conv11_2.eval()
    check_batch_statistics(model, (1, 3, 3, 3))
    check_batch_statistics(freeze_batch_norm(last_maps("batch_norm")).train(), (1, 3, 3, 3))


def test_the_check_leaves_weights_statistics_modes_and_hooks_alone():
    model = last_maps("batch_norm")
    model.conv10_2.norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with pytest.raises(ValueError, match="1 value"):
        check_batch_statistics(model, (1, 3, 3, 3))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("convert", "old"), [(momentum_from_caffe, 0.999), (momentum_from_tensorflow, 0.97)])
def test_converted_momentum_moves_the_average_as_the_other_framework_does(convert, old):
    norm = nn.BatchNorm2d(1, momentum=convert(old))
    x = torch.full((2, 1, 2, 2), 5.0)
    norm(x)
    assert norm.running_mean.item() == pytest.approx(old * 0.0 + (1 - old) * 5.0, rel=1e-5)


@pytest.mark.parametrize("old", [-0.1, 1.0, 99.9])
def test_a_share_outside_its_range_is_refused(old):
    with pytest.raises(ValueError, match=r"moving_average_fraction is the weight of the old average, in \[0, 1\); got"):
        momentum_from_caffe(old)
    with pytest.raises(ValueError, match=r"decay is the weight of the old average"):
        momentum_from_tensorflow(old)


def trained_batch_norm(kind=nn.BatchNorm2d, **options):
    return with_distinct_values(kind(6, **options).eval())


@given(eps=st.floats(1e-12, 0.1), dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]))
def test_a_new_layer_is_the_identity_bit_by_bit(eps, dtype):
    x = torch.randn(2, 6, 3, 3).to(dtype)
    assert torch.equal(FrozenBatchNorm(6, eps=eps)(x), x)


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d])
def test_equals_batch_norm_in_eval_mode_even_in_train_mode(kind):
    norm = trained_batch_norm(kind, eps=1e-3)
    x = torch.randn(2, 6, 3, 3)
    frozen = FrozenBatchNorm.from_batch_norm(norm).train()
    torch.testing.assert_close(frozen(x), norm(x))
    assert list(frozen.parameters()) == []


def test_state_dicts_go_both_ways():
    norm, frozen = trained_batch_norm(), FrozenBatchNorm(6)
    frozen.load_state_dict(norm.state_dict())
    back = nn.BatchNorm2d(6)
    back.load_state_dict(frozen.state_dict())
    x = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(frozen(x), norm(x))
    torch.testing.assert_close(back.eval()(x), norm(x))


def test_freezing_survives_train_and_a_training_step():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), trained_batch_norm(), nn.ReLU())
    x = torch.randn(2, 3, 5, 5)
    expected = model.eval()(x)
    before = model.state_dict()["1.running_mean"].clone()
    assert freeze_batch_norm(model) is model
    model.train()
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert torch.equal(model[1].running_mean, before)
    assert {name for name, _ in model.named_parameters()} == {"0.weight", "0.bias"}


def test_a_shared_layer_stays_shared():
    norm = trained_batch_norm()
    model = freeze_batch_norm(nn.ModuleDict({"a": norm, "b": nn.Sequential(nn.Sequential(norm))}))
    assert model["a"] is model["b"][0][0]
    assert isinstance(freeze_batch_norm(norm), FrozenBatchNorm)
    twice = freeze_batch_norm(nn.Sequential(norm, nn.ReLU(), norm))
    assert twice[0] is twice[2]
    assert isinstance(twice[2], FrozenBatchNorm)


def test_what_cannot_be_frozen_is_refused():
    layers = pytest.importorskip("timm.layers")
    with pytest.raises(ValueError, match=r"0\.0 is a BatchNormAct2d, which does more than a batch norm"):
        freeze_batch_norm(nn.Sequential(nn.Sequential(layers.BatchNormAct2d(3))))
    with pytest.raises(ValueError, match="has no running statistics to freeze"):
        freeze_batch_norm(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))
    with pytest.raises(ValueError, match="expected a batch norm; got GroupNorm"):
        FrozenBatchNorm.from_batch_norm(nn.GroupNorm(1, 3))
