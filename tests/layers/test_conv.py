"""ConvBlock: its order, its slots, and dropout as it should be."""

import pytest
import torch
from torch import nn

from ssdnorm.layers import NORMS, ConvBlock, norm_layer


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


def test_one_file_of_convolution_weights_fits_every_norm():
    names = {
        name: {key for key in ConvBlock(3, 32, 3, norm=norm_layer(name)).state_dict() if "conv" in key}
        for name in NORMS
    }
    assert set(map(frozenset, names.values())) == {frozenset({"conv.weight", "conv.bias"})}


def test_empty_slots_are_identities():
    block = ConvBlock(3, 8, 3)
    assert type(block.norm) is nn.Identity
    assert type(block.dropout) is nn.Identity
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(block(x), block.conv(x).relu())
    assert not any(isinstance(m, nn.Dropout) for m in block.modules())


def test_dropout_keeps_the_expectation_and_is_off_in_evaluation():
    torch.manual_seed(0)
    block = ConvBlock(1, 4, 1, dropout=0.3)
    x = torch.rand(1, 1, 200, 200)
    expected = block.before_dropout(x)
    mean = torch.stack([block(x).mean((0, 2, 3)) for _ in range(20)]).mean(0)
    torch.testing.assert_close(mean, expected.mean((0, 2, 3)), rtol=5e-3, atol=1e-4)
    assert torch.equal(block.eval()(x), expected)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_a_dropout_outside_its_range_is_refused(dropout):
    with pytest.raises(ValueError, match=r"dropout is the probability of a zero, in \[0, 1\); got"):
        ConvBlock(3, 8, 3, dropout=dropout)


def test_a_name_where_a_factory_belongs_is_refused():
    with pytest.raises(ValueError, match=r"norm is a factory, channels -> Module; got 'batch_norm'; use norm_layer"):
        ConvBlock(3, 8, 3, norm="batch_norm")
