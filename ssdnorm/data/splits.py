"""Split a data set into parts with the same share of every class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ssdnorm.tables import GroundTruth


def stratified_split(truth: GroundTruth, shares: Sequence[float], *, seed: int = 0) -> list[np.ndarray]:
    """Divide images so that every part gets its share of the objects of each class.

    Images with the rarest class are given out first, each to the part that lacks most of that class; images without
    objects count as a class of their own. No image is lost or used twice.

    Args:
        shares: of the images, one per part; they sum to 1.

    Returns:
        Places of the images of each part, rising.

    Sources:
        K. Sechidis et al., On the stratification of multi-label data, ECML PKDD 2011: iterative stratification.

    Example:
        >>> from ssdnorm.data.shapes import ShapesDataset
        >>> [len(part) for part in stratified_split(ShapesDataset(10, seed=0).ground_truth, (0.8, 0.2))]
        [8, 2]
    """
    counts = np.zeros((truth.num_images, truth.num_classes + 1))
    np.add.at(counts, (truth.image, truth.labels), 1)
    counts[:, 0] = counts.sum(axis=1) == 0
    wanted = np.outer(shares, counts.sum(axis=0))  # (parts, classes) still to be given
    room = np.asarray(shares) * truth.num_images
    order = np.random.default_rng(seed).permutation(truth.num_images)
    part = np.full(truth.num_images, -1)
    while (part < 0).any():
        left = counts[part < 0].sum(axis=0)
        rarest = int(np.where(left > 0, left, np.inf).argmin())
        for image in order[(counts[order, rarest] > 0) & (part[order] < 0)]:
            need = np.where(room >= 0.5, wanted[:, rarest], -np.inf)
            best = np.lexsort((room, need))[-1]
            part[image] = best
            wanted[best] -= counts[image]
            room[best] -= 1
    return [np.flatnonzero(part == k) for k in range(len(shares))]
