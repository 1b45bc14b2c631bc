"""Tables as dicts in COCO's formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssdnorm.tables import DetectionTable, GroundTruth


def coco_dict(truth: GroundTruth) -> dict[str, list[dict[str, Any]]]:
    """A table as a dict in COCO's instances format, with ``difficult`` (0 or 1) beside ``iscrowd``."""
    images = [
        {"id": image_id, "file_name": truth.names[i], "height": height, "width": width}
        for i, (image_id, (height, width)) in enumerate(
            zip(truth.image_ids.tolist(), truth.sizes.tolist(), strict=True)
        )
    ]
    columns = {
        "id": truth.ids,
        "image_id": truth.image_ids[truth.image],
        "category_id": truth.category_ids[truth.labels - 1],
        "bbox": truth.boxes,
        "area": truth.area,
        "iscrowd": truth.iscrowd.astype(np.int64),
        "difficult": truth.difficult.astype(np.int64),
    }
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(truth.category_ids.tolist(), truth.class_names, strict=True)
    ]
    return {"images": images, "annotations": _rows(columns), "categories": categories}


def result_rows(truth: GroundTruth, found: DetectionTable) -> list[dict[str, Any]]:
    """A table as dicts in COCO's result format, every float as it is: rounding would make scores tie."""
    return _rows(
        {
            "image_id": truth.image_ids[found.image],
            "category_id": truth.category_ids[found.labels - 1],
            "bbox": found.boxes,
            "score": found.scores,
        }
    )


def _rows(columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]
