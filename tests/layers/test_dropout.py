"""Dropout before batch norm, and Monte-Carlo prediction."""

import pytest
import torch
from torch import nn

from ssdnorm.layers import ConvBlock, enable_dropout, norm_layer, warn_dropout_before_batch_norm


def fully_convolutional(norm, dropout=0.5):
    return {
        "fc6": ConvBlock(3, 32, 1, norm=norm_layer(norm), dropout=dropout),
        "fc7": ConvBlock(32, 32, 1, norm=norm_layer(norm), dropout=dropout),
        "extras.conv8_1": ConvBlock(32, 32, 1, norm=norm_layer(norm)),
        "extras.conv8_2": ConvBlock(32, 32, 1, norm=norm_layer(norm)),
    }


def test_each_dropout_is_named_with_the_first_batch_norm_after_it():
    with pytest.warns(
        UserWarning, match=r"fc6\.dropout before fc7\.norm, fc7\.dropout before extras\.conv8_1\.norm.*Li et"
    ):
        pairs = warn_dropout_before_batch_norm(fully_convolutional("batch_norm"))
    assert pairs == [("fc6.dropout", "fc7.norm"), ("fc7.dropout", "extras.conv8_1.norm")]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("norm", "dropout"), [("group_norm", 0.5), ("none", 0.5), ("frozen_batch_norm", 0.5), ("batch_norm", 0.0)]
)
def test_no_warning_without_running_statistics_or_without_dropout(norm, dropout):
    assert warn_dropout_before_batch_norm(fully_convolutional(norm, dropout)) == []


def test_monte_carlo_passes_differ_while_batch_norm_stands_still():
    torch.manual_seed(0)
    model = nn.Sequential(*fully_convolutional("batch_norm").values()).train()
    model[3].eval()
    modes = [module.training for module in model.modules()]
    x, before = torch.randn(1, 3, 4, 4), model[1].norm.running_mean.clone()
    with enable_dropout(model):
        first, second = model(x), model(x)
    assert not torch.equal(first, second)
    assert torch.equal(model[1].norm.running_mean, before)
    assert [module.training for module in model.modules()] == modes


def test_a_model_without_dropout_is_refused():
    with pytest.raises(ValueError, match="no dropout above 0; all passes would be equal"), enable_dropout(nn.ReLU()):
        pass
