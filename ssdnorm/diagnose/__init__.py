"""Statistics of activations, scales, gradients and batch norms of a network."""

from ssdnorm.diagnose.activations import ActivationStatistics, activation_statistics
from ssdnorm.diagnose.feature_maps import MapStatistics

__all__ = ["ActivationStatistics", "MapStatistics", "activation_statistics"]
