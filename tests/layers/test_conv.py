"""ConvBlock: order, slots and dropout; folding batch norm gives the same outputs."""

import pytest
import torch
from torch import nn

from ssdnorm.layers import NORMS, ConvBlock, fold_batch_norm, norm_layer
from tests.layers.distinct import with_distinct_values


def test_order_is_convolution_norm_relu_dropout():
    torch.manual_seed(0)
    block = ConvBlock(3, 8, 3, norm=norm_layer("batch_norm"), stride=2, padding=2, dilation=2, dropout=0.5)
    x = torch.randn(2, 3, 9, 7)
    mean, var = block.conv(x).mean((0, 2, 3), keepdim=True), block.conv(x).var((0, 2, 3), correction=0, keepdim=True)
    expected = ((block.conv(x) - mean) / (var + 1e-5).sqrt()).relu()
    torch.testing.assert_close(block.before_dropout(x), expected, rtol=1e-4, atol=1e-5)
    y = block(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], 2 * expected[kept], rtol=1e-4, atol=1e-5)
    assert y.shape == (2, 8, 5, 4)


def test_empty_slots_are_identities():
    block = ConvBlock(3, 8, 3)
    assert type(block.norm) is nn.Identity
    assert type(block.dropout) is nn.Identity
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(block(x), block.conv(x).relu())
    assert not any(isinstance(m, nn.Dropout) for m in block.modules())


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_outside_its_range_is_refused(dropout):
    with pytest.raises(ValueError, match=r"dropout is the probability of a zero, in \[0, 1\); got"):
        ConvBlock(3, 8, 3, dropout=dropout)


def test_a_name_where_a_factory_belongs_is_refused():
    with pytest.raises(ValueError, match=r"norm is a factory, channels -> Module; got 'batch_norm'; use norm_layer"):
        ConvBlock(3, 8, 3, norm="batch_norm")


def blocks(name):
    """Two blocks with statistics that differ from channel to channel, in eval mode."""
    torch.manual_seed(0)

    def norm(channels):
        return with_distinct_values(norm_layer(name)(channels))

    return nn.Sequential(ConvBlock(3, 32, 3, norm=norm, padding=1), ConvBlock(32, 32, 3, norm=norm, dropout=0.5)).eval()


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


def test_a_block_that_stands_under_two_names_is_folded_once_for_both():
    block = ConvBlock(3, 4, 3, norm=norm_layer("batch_norm")).eval()
    torch.nn.init.uniform_(block.norm.running_var, 0.5, 2)
    model = nn.ModuleDict({"one": block, "other": block, "in a sequence": nn.Sequential(block)})
    folded, x = fold_batch_norm(model), torch.randn(2, 3, 6, 5)
    for name in model:
        torch.testing.assert_close(folded[name](x), block(x), rtol=1e-4, atol=1e-5)
    assert isinstance(folded["one"].norm, nn.Identity)
    assert folded["one"] is folded["other"] is folded["in a sequence"][0]


@pytest.mark.parametrize("tied", ["module", "weight"])
def test_a_convolution_shared_by_several_norms_gives_the_same_outputs(tied):
    conv, other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    if tied == "module":
        other = conv
    else:
        other.weight = conv.weight
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
    for factor, norm in enumerate(norms, 2):
        nn.init.constant_(norm.weight, factor)
    model = nn.ModuleList([nn.Sequential(conv, norms[0]), nn.Sequential(other, norms[1])]).eval()
    x = torch.randn(2, 3, 4, 4)
    for folded, branch in zip(fold_batch_norm(model), model, strict=True):
        torch.testing.assert_close(folded(x), branch(x))


def test_a_subclass_with_an_activation_inside_is_not_folded():
    layers = pytest.importorskip("timm.layers")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layers.BatchNormAct2d(4)).eval()
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(fold_batch_norm(model)(x), model(x))
