"""This file is about the report's pictures: the same test images with each arm's detections side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

from ssdnorm.compare.results import ArmResult, Results
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.drawing import draw_boxes

NUM_IMAGES = 5
_SIDE = 360  # pixels of the longest side
_QUALITY = 62  # of WebP
_LARGEST = 160  # pictures in all; fewer images are shown for many arms


@dataclass(frozen=True)
class Picture:
    """One image with boxes.

    Attributes:
        title: whose boxes: the ground truth's, or an arm's.
        alt: what is in it, in words.
        uri: the picture itself, a ``data:`` URI.
    """

    title: str
    alt: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class PictureRow:
    """One test image: the ground truth, then each arm."""

    name: str
    pictures: list[Picture]


def picture_rows(
    results: Results, root: Path, test_set: DetectionDataset, *, num_images: int = NUM_IMAGES
) -> list[PictureRow]:
    """Test images at evenly spaced places of the test set, with the detections of each arm's first finished seed.

    Of every arm the best-scored detections are drawn, as many as there are objects in the image, so that arms whose
    scores have another scale are shown alike. No rows where no arm has detections.
    """
    found = {arm.name: detections for arm in results.arms if (detections := _detections(arm, root)) is not None}
    if not found or not len(test_set):
        return []
    num_images = max(1, min(num_images, len(test_set), _LARGEST // (1 + len(found))))
    rows = []
    for place in np.unique(np.linspace(0, len(test_set) - 1, num_images).round().astype(int)).tolist():
        pixels = test_set.load_image(place)
        target = test_set.target(place)
        boxes, labels = target["boxes"].numpy(), target["labels"].numpy()
        names = [test_set.class_names[label - 1] for label in labels]
        pictures = [_picture("ground truth", pixels, boxes, names, labels)]
        for arm, by_image in found.items():
            best = sorted(by_image.get(test_set.image_id(place), []), key=lambda one: -one["score"])[: len(boxes)]
            pictures.append(_picture(arm, pixels, *_arrays(best, test_set)))
        rows.append(PictureRow(test_set.image_name(place), pictures))
    return rows


def seed_shown(arm: ArmResult, root: Path) -> int | None:
    """The seed of the run whose detections are drawn."""
    return next((run.seed for run in arm.chosen_runs if (root / run.folder / "detections.json").is_file()), None)


def _detections(arm: ArmResult, root: Path) -> dict[int, list[dict[str, Any]]] | None:
    seed = seed_shown(arm, root)
    for run in arm.chosen_runs:
        if run.seed == seed:
            by_image: dict[int, list[dict[str, Any]]] = {}
            for one in orjson.loads((root / run.folder / "detections.json").read_bytes()):
                by_image.setdefault(one["image_id"], []).append(one)
            return by_image
    return None


def _arrays(
    detections: Sequence[dict[str, Any]], test_set: DetectionDataset
) -> tuple[np.ndarray, list[str], np.ndarray]:
    labels = np.array([1 + test_set.category_ids.index(one["category_id"]) for one in detections], np.int64)
    boxes = np.array([one["bbox"] for one in detections], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
    captions = [
        f"{test_set.class_names[label - 1]} {one['score']:.2f}" for label, one in zip(labels, detections, strict=True)
    ]
    return boxes, captions, labels


def _picture(
    title: str, pixels: np.ndarray, boxes_px: np.ndarray, captions: Sequence[str], labels: np.ndarray
) -> Picture:
    image = Image.fromarray(pixels)
    scale = _SIDE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX))
    drawn = draw_boxes(small, boxes_px * scale, captions, labels.tolist())
    encoded = io.BytesIO()
    drawn.save(encoded, "WEBP", quality=_QUALITY, method=4)
    uri = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    words = ", ".join(captions) if captions else "nothing"
    return Picture(title, f"{title}: {words}", uri, width, height)
