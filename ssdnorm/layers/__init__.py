"""Modules that know nothing of detection."""

from ssdnorm.layers.conv import ConvBlock
from ssdnorm.layers.l2_norm import L2Norm
from ssdnorm.layers.norm_parameters import norm_parameters
from ssdnorm.layers.norms import NORMS, norm_layer

__all__ = ["NORMS", "ConvBlock", "L2Norm", "norm_layer", "norm_parameters"]
