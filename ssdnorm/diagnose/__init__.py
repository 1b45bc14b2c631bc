"""Statistics of activations, scales, gradients and batch norms of a network."""

from ssdnorm.diagnose.activations import ActivationStatistics, MapStatistics, activation_statistics

__all__ = ["ActivationStatistics", "MapStatistics", "activation_statistics"]
