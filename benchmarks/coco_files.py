"""This file is about made-up COCO files of any size on disk, outlines included, to measure their reading on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson

_OUTLINE_NUMBERS = 52  # of an object: makes a file of train2017's size, 440 MB for 860,000 boxes
_CLASSES = 80
_AT_ONCE = 20_000


def write_coco_files(folder: Path, num_images: int, num_boxes: int, *, seed: int = 0) -> tuple[Path, Path]:
    """An instances file and a folder of empty images, as ``CocoDataset`` takes them.

    Args:
        folder: is there already.
        num_boxes: of all images together, at random places and images.
    """
    rng = np.random.default_rng(seed)
    images, file = folder / "images", folder / "instances.json"
    images.mkdir()
    names = [f"{place:012d}.jpg" for place in range(num_images)]
    for name in names:
        (images / name).touch()
    outlines = [[row] for row in (rng.random((500, _OUTLINE_NUMBERS)) * 600).round(2).tolist()]
    owners = rng.integers(num_images, size=num_boxes).tolist()
    boxes = (rng.random((num_boxes, 4)) * [300, 200, 300, 200] + 1).round(2).tolist()
    with open(file, "wb") as out:
        records = [{"id": i, "file_name": name, "width": 640, "height": 480} for i, name in enumerate(names)]
        categories = [{"id": i + 1, "name": f"class {i + 1}"} for i in range(_CLASSES)]
        out.write(orjson.dumps({"images": records, "categories": categories})[:-1] + b',"annotations":[')
        for start in range(0, num_boxes, _AT_ONCE):
            rows = [
                {
                    "id": i + 1,
                    "image_id": owners[i],
                    "category_id": 1 + i % _CLASSES,
                    "bbox": boxes[i],
                    "area": 0.7 * boxes[i][2] * boxes[i][3],
                    "iscrowd": 0,
                    "segmentation": outlines[i % len(outlines)],
                }
                for i in range(start, min(start + _AT_ONCE, num_boxes))
            ]
            out.write((b"," if start else b"") + orjson.dumps(rows)[1:-1])
        out.write(b"]}")
    return file, images
