"""Demonstrations of what normalisation does: each measures, draws, and leaves its numbers behind."""
