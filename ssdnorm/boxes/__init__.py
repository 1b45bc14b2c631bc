"""Functions on boxes, without weights."""
