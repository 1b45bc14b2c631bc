"""Data sets, augmentation and batches. Knows nothing of default boxes."""
