"""Find pictures that are in two splits, also when they were stored again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import cv2
import numpy as np

from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.images import EncodedImage

_SIDE = 16
_DIFFERING_BITS = 6  # of 256; another JPEG quality changes fewer, another photograph of the same scene many more
_CHUNK = 512


def find_duplicates(datasets: Mapping[str, DetectionDataset]) -> list[tuple[str, str, str, str]]:
    """Pairs of pictures that look the same in two splits: split, file, other split, other file."""
    names, prints = {}, {}
    for name, dataset in datasets.items():
        found = fingerprints(dataset)
        names[name] = [dataset.image_name(place) for place in found]
        prints[name] = np.array(list(found.values()), np.uint64).reshape(-1, 4)
    pairs = []
    for one, other in combinations(datasets, 2):
        for start in range(0, len(prints[one]), _CHUNK):
            block = prints[one][start : start + _CHUNK, None] ^ prints[other][None]
            for i, j in np.argwhere(np.bitwise_count(block).sum(axis=2) <= _DIFFERING_BITS).tolist():
                pairs.append((one, names[one][start + i], other, names[other][j]))
    return pairs


def fingerprints(dataset: DetectionDataset) -> dict[int, np.ndarray]:
    """256 bits per picture that can be read: where brightness falls from left to right on a grid of 16 × 16.

    Returns:
        place → ``(4,)`` uint64.
    """

    def of(index: int) -> np.ndarray | None:
        try:
            image = dataset.open_image(index)
            pixels = image.decode(max(image.reductions)) if isinstance(image, EncodedImage) else image
        except (OSError, ValueError):
            return None
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
        small = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA)
        return np.packbits(small[:, 1:] > small[:, :-1]).view(np.uint64)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        found = enumerate(threads.map(of, range(len(dataset))))
        return {place: bits for place, bits in found if bits is not None}
