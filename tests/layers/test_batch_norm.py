"""Statistics over one value, and momentum in three frameworks' words."""

import pytest
import torch
from torch import nn

from ssdnorm.layers import (
    ConvBlock,
    check_batch_statistics,
    freeze_batch_norm,
    momentum_from_caffe,
    momentum_from_tensorflow,
    norm_layer,
)


def last_maps(name):
    """A stand-in for SSD's end: 3×3 -> 1×1."""
    model = nn.Sequential()
    model.add_module("conv10_2", ConvBlock(3, 32, 3, norm=norm_layer(name), padding=1))
    model.add_module("conv11_2", ConvBlock(32, 32, 3, norm=norm_layer(name)))
    return model


def test_one_image_on_a_1x1_map_is_refused_with_layer_count_and_ways_out():
    message = (
        r"conv11_2\.norm: BatchNorm2d would take statistics over 1 value per channel \(batch 1, map 1×1\)\. Ways out: "
        r"batch norm: a bigger batch.*frozen_batch_norm, group_norm, or none there"
    )
    with pytest.raises(ValueError, match=message) as error:
        check_batch_statistics(last_maps("batch_norm"), (1, 3, 3, 3))
    assert "conv10_2" not in str(error.value)


@pytest.mark.parametrize("name", ["none", "l2_norm", "frozen_batch_norm", "group_norm", "layer_norm", "rms_norm"])
def test_norms_without_batch_statistics_pass_with_one_image(name):
    spec = {"kind": name, "groups": 16} if name == "group_norm" else name
    check_batch_statistics(last_maps(spec), (1, 3, 3, 3))


def test_a_group_of_one_value_is_refused_for_any_batch():
    for batch in (1, 4):
        with pytest.raises(
            ValueError, match=r"conv11_2\.norm: GroupNorm .* 1 value per group .*group norm: fewer groups"
        ):
            check_batch_statistics(last_maps("group_norm"), (batch, 3, 3, 3))


def test_two_images_pass_but_not_for_instance_norm():
    check_batch_statistics(last_maps("batch_norm"), (2, 3, 3, 3))
    with pytest.raises(ValueError, match=r"conv11_2\.norm: InstanceNorm would take statistics over 1 value"):
        check_batch_statistics(last_maps("instance_norm"), (2, 3, 3, 3))


def test_synchronised_batch_norm_counts_all_processes():
    check_batch_statistics(last_maps("sync_batch_norm"), (1, 3, 3, 3), world_size=2)
    with pytest.raises(ValueError, match=r"conv11_2\.norm: SyncBatchNorm"):
        check_batch_statistics(last_maps("sync_batch_norm"), (1, 3, 3, 3), world_size=1)
    with pytest.raises(ValueError, match=r"conv11_2\.norm: BatchNorm2d"):
        check_batch_statistics(last_maps("batch_norm"), (1, 3, 3, 3), world_size=2)


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


def test_what_the_check_refuses_is_what_torch_refuses():
    model = last_maps("batch_norm")
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        model(torch.zeros(1, 3, 3, 3))


@pytest.mark.parametrize(("convert", "old"), [(momentum_from_caffe, 0.999), (momentum_from_tensorflow, 0.97)])
def test_converted_momentum_moves_the_average_as_the_other_framework_does(convert, old):
    norm = nn.BatchNorm2d(1, momentum=convert(old))
    x = torch.full((2, 1, 2, 2), 5.0)
    norm(x)
    assert norm.running_mean.item() == pytest.approx(old * 0.0 + (1 - old) * 5.0, rel=1e-5)


@pytest.mark.parametrize("old", [-0.1, 1.0, 99.9])
def test_a_share_outside_its_range_is_refused(old):
    with pytest.raises(ValueError, match=r"moving_average_fraction is the share of the old average, in \[0, 1\); got"):
        momentum_from_caffe(old)
    with pytest.raises(ValueError, match=r"decay is the share of the old average"):
        momentum_from_tensorflow(old)
