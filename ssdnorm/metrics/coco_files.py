"""This file is about COCO's two JSON files, annotations and results: read with checks, written at full precision."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from ssdnorm.metrics.arrays import DetectionArrays, GroundTruthArrays, detection_arrays, ground_truth_arrays
from ssdnorm.metrics.collect import ImageBoxes, image_arrays


def load_ground_truth(path: str | Path) -> dict[str, Any]:
    """Read an annotation file (``instances_*.json``) and check it.

    Raises:
        ValueError: not JSON, cut short, a part is missing, an id is unknown or given twice, a box has no numbers.
    """
    data = _read_json(path)
    try:
        ground_truth_arrays(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return data


def load_detections(path: str | Path, ground_truth: Mapping[str, Any] | GroundTruthArrays) -> list[dict[str, Any]]:
    """Read a result file (a list of image_id, category_id, bbox, score) and check it against the ground truth.

    Raises:
        ValueError: not JSON, cut short, not a list, ids the ground truth does not have, boxes or scores that are no
            numbers.
    """
    return load_detections_as_arrays(path, ground_truth_arrays(ground_truth))[0]


def load_detections_as_arrays(
    path: str | Path, truth: GroundTruthArrays
) -> tuple[list[dict[str, Any]], DetectionArrays]:
    """As :func:`load_detections`, together with the arrays that the check makes anyway: for large files."""
    data = _read_json(path)
    if not isinstance(data, list):
        raise ValueError(f"{path}: got a {type(data).__name__}, allowed: a list of detections in COCO's result format")
    try:
        return data, detection_arrays(data, truth)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def coco_results(
    detections: Sequence[ImageBoxes], image_ids: Sequence[Any], category_ids: Sequence[Any] | Mapping[int, Any]
) -> list[dict[str, Any]]:
    """Detections of many images in COCO's result format, every float as it is (no rounding, so no new ties).

    Args:
        detections: one a image: boxes xyxy in pixels, scores, labels of 1 or more.
        image_ids: the data set's id of each of these images.
        category_ids: the data set's id of labels 1, 2, … (holes and all), or a mapping from label to id.

    Raises:
        ValueError: unequal lengths, or a label that has no category id.
    """
    if len(detections) != len(image_ids):
        raise ValueError(f"coco_results: got {len(detections)} detections for {len(image_ids)} image ids")
    ids = dict(category_ids) if isinstance(category_ids, Mapping) else dict(enumerate(category_ids, 1))
    rows: list[dict[str, Any]] = []
    for place, (found, image_id) in enumerate(zip(detections, image_ids, strict=True)):
        arrays = image_arrays(found, f"detections[{place}]", scored=True)
        for label, box, score in zip(
            arrays.labels.tolist(), arrays.boxes.tolist(), arrays.scores.tolist(), strict=True
        ):
            if label not in ids:
                raise ValueError(f"detections[{place}]: label {label} has no category id; labels are {sorted(ids)}")
            rows.append({"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score})
    return rows


def _read_json(path: str | Path) -> Any:
    data = Path(path).read_bytes()
    was_enabled = gc.isenabled()
    gc.disable()  # nothing in a freshly parsed file is garbage; looking for it doubles the time
    try:
        return orjson.loads(data)  # three times faster than json
    except orjson.JSONDecodeError:
        pass
    finally:
        if was_enabled:
            gc.enable()
    try:
        return json.loads(data)  # takes NaN, which is then refused with its place
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not JSON: the bytes are not text in UTF-8") from None
