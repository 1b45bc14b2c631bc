"""Synthetic COCO data of any size: ground truth with detections, and annotation files with outlines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson

_VAL2017_OBJECTS = 7.36  # annotated boxes per image: 36,781 on 5000
_OUTLINE_NUMBERS = 52  # per object: gives a file of train2017's size, 440 MB for 860,000 boxes


def synthetic_coco(
    num_images: int = 5000, detections_per_image: int = 100, num_classes: int = 80, *, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ground truth and detections as dicts: COCO-like sizes and class frequencies, 1 % crowd regions.

    About three in four objects are found, some twice, with boxes that are off by a few percent; the other detections
    are clutter of lower scores. Every image has the same number of detections, some images have no objects. One object
    in ten is difficult, which only VOC's metric reads.
    """
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, num_classes + 1)
    frequency /= frequency.sum()
    counts = np.where(rng.random(num_images) < 0.01, 0, rng.poisson(_VAL2017_OBJECTS, num_images))
    image = np.repeat(np.arange(num_images), counts)
    category = rng.choice(num_classes, len(image), p=frequency)
    size = np.exp(rng.normal(4.0, 1.1, (len(image), 2))).clip(2, 600)
    boxes = np.concatenate([rng.uniform(0, 1, (len(image), 2)) * (640 - size).clip(1), size], 1).round(2)
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": area, "iscrowd": crowd, "difficult": hard}
        for n, (i, c, box, area, crowd, hard) in enumerate(
            zip(
                (image + 1).tolist(),
                (category + 1).tolist(),
                boxes.tolist(),
                (boxes[:, 2] * boxes[:, 3] * rng.uniform(0.4, 0.9, len(image))).round(4).tolist(),
                (rng.random(len(image)) < 0.01).astype(int).tolist(),
                (np.random.default_rng([seed, 1]).random(len(image)) < 0.1).astype(int).tolist(),
                strict=True,
            ),
            1,
        )
    ]
    truth = {
        "images": [
            {"id": i + 1, "file_name": f"{i + 1:012d}.jpg", "width": 640, "height": 480} for i in range(num_images)
        ],
        "categories": [{"id": c + 1, "name": f"class_{c + 1}"} for c in range(num_classes)],
        "annotations": annotations,
    }
    start = np.r_[0, np.cumsum(counts)]
    place = rng.integers(0, 1 << 30, (num_images, detections_per_image))
    tries = np.arange(detections_per_image)[None] < (1.0 * counts[:, None])
    tries &= rng.random(tries.shape) < 0.95
    source = (start[:-1, None] + place % np.maximum(counts, 1)[:, None])[tries]
    shape = (num_images, detections_per_image)
    found_class = rng.choice(num_classes, shape, p=frequency)
    size = np.exp(rng.normal(4.0, 1.1, (*shape, 2))).clip(2, 600)
    found = np.concatenate([rng.uniform(0, 1, (*shape, 2)) * (640 - size).clip(1), size], -1)
    score = rng.beta(0.6, 6, shape)
    noise = rng.normal(0, 0.08, (len(source), 4)) * rng.exponential(1.0, (len(source), 1))
    found[tries] = boxes[source] + noise * np.tile(boxes[source, 2:], 2)
    wrong = rng.random(len(source)) < 0.1
    found_class[tries] = np.where(wrong, found_class[tries], category[source])
    score[tries] = rng.beta(3, 2, len(source))
    columns = (found_class + 1, np.abs(found).round(3), score.round(6))
    rows = zip(*(column.reshape(-1, *column.shape[2:]).tolist() for column in columns), strict=True)
    detections = [
        {"image_id": n // detections_per_image + 1, "category_id": c, "bbox": box, "score": s}
        for n, (c, box, s) in enumerate(rows)
    ]
    return truth, detections


def write_outlined_coco(folder: Path, num_images: int) -> tuple[Path, Path]:
    """An annotation file with outlines, as long as COCO's, and a folder of empty images, as ``CocoDataset`` takes them.

    Args:
        folder: must exist.
    """
    truth, _ = synthetic_coco(num_images, 0)
    outlines = [[row] for row in (np.random.default_rng(0).random((500, _OUTLINE_NUMBERS)) * 600).round(2).tolist()]
    for i, row in enumerate(truth["annotations"]):
        row["segmentation"] = outlines[i % len(outlines)]
    images, file = folder / "images", folder / "instances.json"
    images.mkdir()
    for image in truth["images"]:
        (images / image["file_name"]).touch()
    file.write_bytes(orjson.dumps(truth))
    return file, images
