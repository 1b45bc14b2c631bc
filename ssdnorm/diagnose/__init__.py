"""What a network does to its numbers: statistics of maps, scales, gradients and batch norms."""

from ssdnorm.diagnose.activations import ActivationStatistics, MapStatistics, activation_statistics

__all__ = ["ActivationStatistics", "MapStatistics", "activation_statistics"]
