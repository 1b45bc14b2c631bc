"""Folding: the same outputs from fewer layers."""

import pytest
import torch
from torch import nn

from ssdnorm.layers import NORMS, ConvBlock, fold_batch_norm, norm_layer


def blocks(name):
    """Two blocks with statistics that differ from channel to channel, in eval mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        ConvBlock(3, 32, 3, norm=norm_layer(name), padding=1), ConvBlock(32, 32, 3, norm=norm_layer(name), dropout=0.5)
    )
    for block in model:
        for i, tensor in enumerate(t for t in block.norm.state_dict().values() if t.is_floating_point()):
            tensor.copy_(torch.linspace(0.5, 2.0, 32).roll(i))
    return model.eval()


@pytest.mark.parametrize("name", NORMS)
def test_outputs_are_equal_and_only_batch_norms_disappear(name):
    model = blocks(name)
    x = torch.randn(2, 3, 7, 6)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = fold_batch_norm(model)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)
    gone = all(isinstance(block.norm, nn.Identity) for block in folded)
    assert gone == (name in ("none", "batch_norm", "sync_batch_norm", "frozen_batch_norm"))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("options", [{"affine": False}, {"momentum": None}])
def test_folds_a_norm_without_affine_and_a_convolution_without_bias(options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8, **options), nn.ReLU())
    model(3 + 2 * torch.randn(8, 4, 9, 9))
    folded, x = fold_batch_norm(model), torch.randn(2, 4, 7, 6)
    assert isinstance(folded[1], nn.Identity)
    assert not folded.training
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-4, atol=1e-4)


def test_norms_whose_place_is_not_certain_or_that_keep_no_statistics_stay():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 1),
        nn.BatchNorm2d(4, track_running_stats=False),
    )
    folded = fold_batch_norm(model)
    assert [type(layer) for layer in folded] == [type(layer) for layer in model]


def test_a_subclass_with_an_activation_inside_is_not_folded():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4)).eval()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(fold_batch_norm(model)(x), model(x))
