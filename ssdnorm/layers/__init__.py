"""Modules that know nothing of detection."""

from ssdnorm.layers.batch_norm import check_batch_statistics, momentum_from_caffe, momentum_from_tensorflow
from ssdnorm.layers.channel_norms import ChannelLayerNorm, ChannelRMSNorm
from ssdnorm.layers.conv import ConvBlock
from ssdnorm.layers.dropout import enable_dropout, warn_dropout_before_batch_norm
from ssdnorm.layers.fold import fold_batch_norm
from ssdnorm.layers.frozen_batch_norm import FrozenBatchNorm, freeze_batch_norm
from ssdnorm.layers.instance_norm import InstanceNorm
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.layers.norm_parameters import is_norm, mark_norm, norm_parameters
from ssdnorm.layers.norms import NORMS, NormFactory, norm_layer
from ssdnorm.layers.population_statistics import recompute_population_stats, running_statistics, statistics_table
from ssdnorm.layers.swap_norms import SwappedNorm, swap_norms
from ssdnorm.layers.sync_batch_norm import SyncBatchNorm

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
    "SyncBatchNorm",
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
    "statistics_table",
    "swap_norms",
    "warn_dropout_before_batch_norm",
]
