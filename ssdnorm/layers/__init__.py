"""Norms, convolution blocks and dropout: modules that do not depend on detection."""

from ssdnorm.layers.batch_norm import (
    FrozenBatchNorm,
    check_batch_statistics,
    freeze_batch_norm,
    momentum_from_caffe,
    momentum_from_tensorflow,
)
from ssdnorm.layers.channel_norms import ChannelLayerNorm, ChannelRMSNorm, InstanceNorm
from ssdnorm.layers.conv import ConvBlock, fold_batch_norm
from ssdnorm.layers.dropout import enable_dropout, warn_dropout_before_batch_norm
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.layers.norms import NORMS, NormFactory, is_norm, mark_norm, norm_layer, norm_parameters
from ssdnorm.layers.population_statistics import recompute_population_stats, running_statistics
from ssdnorm.layers.swap_norms import SwappedNorm, swap_norms

__all__ = [
    "NORMS",
    "ChannelLayerNorm",
    "ChannelRMSNorm",
    "ConvBlock",
    "FrozenBatchNorm",
    "InstanceNorm",
    "L2Norm",
    "NormFactory",
    "SwappedNorm",
    "check_batch_statistics",
    "enable_dropout",
    "fold_batch_norm",
    "freeze_batch_norm",
    "is_norm",
    "mark_norm",
    "momentum_from_caffe",
    "momentum_from_tensorflow",
    "norm_layer",
    "norm_parameters",
    "recompute_population_stats",
    "running_statistics",
    "swap_norms",
    "warn_dropout_before_batch_norm",
]
