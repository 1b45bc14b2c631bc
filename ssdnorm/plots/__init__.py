"""Boxes on pictures, and figures: one palette and one style for the whole library."""
