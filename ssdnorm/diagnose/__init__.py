"""What a network does to its numbers: statistics of maps, scales, gradients and batch norms."""
