"""Photos to measure with: real ones of VOC's size, or drawn ones that cost a decoder as much."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from ssdnorm.data import EncodedImage

VOC_SIZE = (375, 500)  # height, width of most of VOC's photos

_QUALITY = 90
_TEXTURE = 0.83  # weight of an octave over that of the coarser one; gives 64 kB, as real photos of COCO have


def load_photos(folder: Path | None, number: int) -> tuple[list[bytes], str]:
    """JPEGs of VOC's size, and what they are, for the table.

    Args:
        folder: of real JPEGs, which are scaled and encoded again at quality 90; None draws photos.
        number: how many; a smaller folder is gone through again.

    Raises:
        ValueError: if there is no JPEG in the folder.
    """
    if folder is None:
        return [_encode(draw_photo(*VOC_SIZE, seed=seed)) for seed in range(number)], f"{number} drawn photos"
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:number]
    if not paths:
        raise ValueError(f"{folder}: no JPEG in it; expected a folder of photos")
    pictures = [EncodedImage.read(path).decode() for path in paths]
    scaled = [_encode(cv2.resize(picture, VOC_SIZE[::-1], interpolation=cv2.INTER_AREA)) for picture in pictures]
    what = f"{number} photos" if len(paths) == number else f"{number} photos ({len(paths)} different)"
    return [scaled[i % len(scaled)] for i in range(number)], f"{what} of {folder.name}"


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
        mask = np.zeros((height, width), np.uint8)
        inside = cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1) > 0
        picture[inside] = 0.6 * picture[inside] + 0.4 * rng.uniform(0, 255, 3)
    return picture.astype(np.uint8)


def synthetic_boxes(number: int) -> np.ndarray:
    """Five boxes per photo, ``(number, 5, 4)`` float32 xyxy in pixels, 30 to 140 wide."""
    rng = np.random.default_rng(0)
    corners = rng.random((number, 5, 2)) * [350, 250]
    return np.concatenate([corners, corners + 30 + rng.random((number, 5, 2)) * [110, 90]], axis=2).astype(np.float32)


def write_photo_dataset(folder: Path, photos: list[bytes]) -> tuple[Path, Path]:
    """Photos with five boxes each, in COCO's format: the annotation file and the folder of images."""
    images, file = folder / "images", folder / "instances.json"
    images.mkdir(parents=True)
    records, annotations = [], []
    for i, (photo, boxes) in enumerate(zip(photos, synthetic_boxes(len(photos)).tolist(), strict=True), 1):
        (images / f"{i:05d}.jpg").write_bytes(photo)
        records.append({"id": i, "file_name": f"{i:05d}.jpg", "width": VOC_SIZE[1], "height": VOC_SIZE[0]})
        for k, (x1, y1, x2, y2) in enumerate(boxes, 1):
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"id": 5 * i + k, "image_id": i, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            annotations.append(row)
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, 6)]
    file.write_text(json.dumps({"images": records, "categories": categories, "annotations": annotations}))
    return file, images


def _encode(picture: np.ndarray) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    encoded: bytes = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()
    return encoded
