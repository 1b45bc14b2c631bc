"""This file is about photos to measure with: real ones of VOC's size, or drawn ones that cost a decoder as much."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ssdnorm.data import EncodedImage

VOC_SIZE = (375, 500)  # height, width of most of VOC's photos

_QUALITY = 90
_TEXTURE = 0.83  # weight of an octave over that of the coarser one; gives 64 kB, as real photos of COCO have


def load_photos(folder: Path | None, number: int, *, size: tuple[int, int] = VOC_SIZE) -> tuple[list[bytes], str]:
    """JPEGs of one size, and what they are, for the table.

    Args:
        folder: of real JPEGs, which are scaled to ``size`` and encoded again at quality 90; None draws photos.
        number: how many at most of a folder, exactly how many of drawn ones.
        size: height and width.

    Raises:
        ValueError: if there is no JPEG in the folder.
    """
    if folder is None:
        pictures = [draw_photo(*size, seed=seed) for seed in range(number)]
        return [_encode(picture) for picture in pictures], f"{number} drawn photos"
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:number]
    if not paths:
        raise ValueError(f"{folder}: no JPEG in it; expected a folder of photos")
    pictures = [EncodedImage.read(path).decode() for path in paths]
    scaled = [cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA) for picture in pictures]
    return [_encode(picture) for picture in scaled], f"{len(paths)} real photos of {folder.name}"


def draw_photo(height: int, width: int, *, seed: int) -> np.ndarray:
    """Detail at every scale, less of it the finer it is, and some hard edges: RGB ``(height, width, 3)`` uint8."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    weight, cell = 1.0, max(height, width) / 2
    while cell >= 1:
        coarse = rng.standard_normal((int(height / cell) + 2, int(width / cell) + 2, 3), dtype=np.float32)
        coarse = 0.4 * coarse + 0.6 * coarse.mean(axis=2, keepdims=True)  # colours differ less than brightness
        picture += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        weight, cell = weight * _TEXTURE, cell / 2
    picture = np.clip(128 + 60 * picture, 0, 255)
    for _ in range(8):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(5, width // 5)), int(rng.integers(5, height // 5)))
        shade = cv2.ellipse(
            np.zeros((height, width), np.uint8), centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1
        )
        picture[shade > 0] = 0.6 * picture[shade > 0] + 0.4 * rng.uniform(0, 255, 3)
    return picture.astype(np.uint8)


def _encode(picture: np.ndarray) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    encoded: bytes = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return encoded
