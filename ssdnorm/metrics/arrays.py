"""This file is about ground truth and detections of a whole data set as flat arrays, checked once at the door."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

Ids = Sequence[Hashable]


@dataclass(frozen=True)
class GroundTruthArrays:
    """Every annotated box of a data set, side by side.

    Shape:
        ``image``, ``category`` ``(G,)`` int64: places in ``image_ids`` and ``category_ids``, which are sorted;
        ``boxes`` ``(G, 4)`` float64 xywh in pixels (0-based, width = right edge − left edge); ``area`` ``(G,)``
        squared pixels; ``crowd``, ``difficult`` ``(G,)`` bool.
    """

    image_ids: list[Any]
    category_ids: list[Any]
    class_names: list[str]
    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class DetectionArrays:
    """Every detection of a data set, side by side, in the order in which they came.

    Shape:
        ``image``, ``category`` ``(N,)`` int64: places in the ground truth's ``image_ids`` and ``category_ids``;
        ``boxes`` ``(N, 4)`` float64 xywh in pixels; ``scores`` ``(N,)`` float64.
    """

    image: np.ndarray
    category: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def select(self, keep: np.ndarray) -> DetectionArrays:
        """The detections that a mask or a list of places chooses."""
        return DetectionArrays(self.image[keep], self.category[keep], self.boxes[keep], self.scores[keep])


def ground_truth_arrays(ground_truth: Mapping[str, Any] | GroundTruthArrays) -> GroundTruthArrays:
    """Ground truth in COCO's format as arrays.

    ``area`` falls back to width × height, ``iscrowd`` and ``difficult`` to 0. A crowd region and a difficult object
    are both "ignore" in their own metric only: COCO's reads ``iscrowd``, VOC's reads ``difficult``.

    Raises:
        ValueError: a part is missing, an id is unknown or given twice, a box is not finite or inverted.
    """
    if isinstance(ground_truth, GroundTruthArrays):
        return ground_truth
    if not isinstance(ground_truth, Mapping):
        raise ValueError(f"ground truth: got {type(ground_truth).__name__}, allowed: a dict in COCO's format")
    for key in ("images", "annotations", "categories"):
        if not isinstance(ground_truth.get(key), Sequence):
            raise ValueError(f"ground truth: {key!r} is missing or not a list; got keys {sorted(ground_truth)}")
    images, categories = ground_truth["images"], ground_truth["categories"]
    annotations = ground_truth["annotations"]
    image_ids = _unique_ids(_column(images, "id", "images"), "images")
    category_ids = _unique_ids(_column(categories, "id", "categories"), "categories")
    boxes = _box_array(_column(annotations, "bbox", "annotations"), "annotations")
    area = _optional(annotations, "area", np.float64, "annotations", lambda: boxes[:, 2] * boxes[:, 3])
    return GroundTruthArrays(
        image_ids=image_ids,
        category_ids=category_ids,
        class_names=_class_names(categories),
        image=places(_column(annotations, "image_id", "annotations"), image_ids, "annotations", "image_id"),
        category=places(_column(annotations, "category_id", "annotations"), category_ids, "annotations", "category_id"),
        boxes=boxes,
        area=_finite(area, "annotations", "area"),
        crowd=_optional(annotations, "iscrowd", np.bool_, "annotations"),
        difficult=_optional(annotations, "difficult", np.bool_, "annotations"),
    )


def detection_arrays(
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | DetectionArrays, ground_truth: GroundTruthArrays
) -> DetectionArrays:
    """Detections in COCO's result format as arrays that point into a ground truth.

    Args:
        detections: dicts with ``image_id``, ``category_id``, ``bbox`` (xywh, pixels) and ``score``; or one dict of
            four columns under the same names (``bbox`` of shape ``(N, 4)``), which skips the dicts.

    Raises:
        ValueError: an id the ground truth does not have, a score that is not finite, an inverted box, a missing key.
    """
    if isinstance(detections, DetectionArrays):
        return detections
    if isinstance(detections, Mapping):
        columns = [_column_of_arrays(detections, key) for key in ("image_id", "category_id", "bbox", "score")]
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(str(len(column)) for column in columns)
            raise ValueError(f"detections: image_id, category_id, bbox, score must be equally long; got {lengths}")
    else:
        columns = [_column(detections, key, "detections") for key in ("image_id", "category_id", "bbox", "score")]
    image_id, category_id, bbox, score = columns
    return DetectionArrays(
        image=places(image_id, ground_truth.image_ids, "detections", "image_id"),
        category=places(category_id, ground_truth.category_ids, "detections", "category_id"),
        boxes=_box_array(bbox, "detections"),
        scores=_finite(_numbers(score, "detections", "score"), "detections", "score"),
    )


def places(ids: Ids | np.ndarray, known: Ids, where: str, key: str) -> np.ndarray:
    """Where each id stands in a list of known ids.

    Shape:
        ids ``(N,)`` → ``(N,)`` int64.

    Raises:
        ValueError: ids that are not known; the first five are named.
    """
    if isinstance(ids, np.ndarray):
        found = _integer_places(ids, known)
        if found is not None:
            return found
        ids = ids.tolist()
    index = {name: place for place, name in enumerate(known)}
    try:
        return np.fromiter(map(index.__getitem__, ids), np.int64, len(ids))
    except (KeyError, TypeError):
        pass
    unknown = sorted({repr(value) for value in ids if not isinstance(value, Hashable) or value not in index})
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    kind = "an image" if key == "image_id" else "a category"
    have = f"{len(known)} ids" if len(known) > 10 else f"{list(known)}"
    raise ValueError(f"{where}: {key} {', '.join(unknown[:5])}{more}: not {kind} of the ground truth, which has {have}")


def _integer_places(ids: np.ndarray, known: Ids) -> np.ndarray | None:
    """The same for integers among sorted integers, ten times faster; None where that does not hold."""
    numbers = np.asarray(known)
    if ids.dtype.kind not in "iu" or numbers.dtype.kind not in "iu":
        return None
    found = np.searchsorted(numbers, ids)
    return found if np.array_equal(numbers.take(found, mode="clip"), ids) else None


def _column(rows: Sequence[Mapping[str, Any]], key: str, where: str) -> list[Any]:
    try:
        return list(map(itemgetter(key), rows))
    except (KeyError, TypeError, IndexError):
        pass
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}[{place}]: got {type(row).__name__}, allowed: a dict")
        if key not in row:
            raise ValueError(f"{where}[{place}]: {key!r} is missing; got keys {sorted(map(str, row))}")
    raise ValueError(f"{where}: got {type(rows).__name__}, allowed: a list of dicts")


def _column_of_arrays(columns: Mapping[str, Any], key: str) -> Any:
    if key not in columns:
        raise ValueError(f"detections: column {key!r} is missing; got {sorted(map(str, columns))}")
    values = columns[key]
    return np.asarray(values) if hasattr(values, "tolist") and key.endswith("_id") else values


def _optional(
    rows: Sequence[Mapping[str, Any]],
    key: str,
    dtype: type,
    where: str,
    default: Callable[[], np.ndarray] | None = None,
) -> np.ndarray:
    values = [row.get(key) for row in rows]
    if None in values:
        fill = np.zeros(len(values), dtype) if default is None else default()
        values = [usual if value is None else value for value, usual in zip(values, fill.tolist(), strict=True)]
    if dtype is np.bool_:
        values = [int(value) if isinstance(value, bool | np.bool_) else value for value in values]
    return _numbers(values, where, key).astype(dtype)


def _numbers(values: Any, where: str, key: str) -> np.ndarray:
    array = _float_array(values)
    if array is not None and array.ndim == 1:
        return array
    place, value = next(((i, v) for i, v in enumerate(values) if not _is_number(v)), (0, values))
    raise ValueError(f"{where}[{place}]: {key}: got {value!r}, allowed: a number")


def _finite(values: np.ndarray, where: str, key: str) -> np.ndarray:
    if not np.isfinite(values).all():
        place = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{where}[{place}]: {key}: got {values[place]}, allowed: finite numbers")
    return values


def _box_array(boxes: Any, where: str) -> np.ndarray:
    array = _rows_of_four(boxes)
    if array is None:
        place, box = next(((i, b) for i, b in enumerate(boxes) if not _is_box(b)), (0, boxes))
        raise ValueError(f"{where}[{place}]: bbox: got {box!r}, allowed: four numbers x, y, width, height")
    good = np.isfinite(array).all(1) & (array[:, 2] >= 0) & (array[:, 3] >= 0)
    if not good.all():
        place = int(np.argmin(good))
        allowed = "allowed: finite x, y and width, height of at least 0 (not xyxy)"
        raise ValueError(f"{where}[{place}]: bbox: got {array[place].tolist()}, {allowed}")
    return array


def _rows_of_four(boxes: Any) -> np.ndarray | None:
    if not isinstance(boxes, list):
        array = _float_array(boxes)
        return array.reshape(0, 4) if array is not None and not array.size else _with_four_columns(array)
    try:
        if set(map(len, boxes)) - {4}:
            return None
        array = _float_array(list(chain.from_iterable(boxes)))  # four times faster than from nested lists
    except TypeError:
        return None
    return None if array is None or array.ndim != 1 else array.reshape(-1, 4)


def _with_four_columns(array: np.ndarray | None) -> np.ndarray | None:
    return array if array is not None and array.ndim == 2 and array.shape[1] == 4 else None


def _float_array(values: Any) -> np.ndarray | None:
    """Numbers as float64; None where some are not numbers (text, bool, None), which NumPy would convert."""
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    return array.astype(np.float64) if array.dtype.kind in "fiu" or not array.size else None


def _is_number(value: Any) -> bool:
    return _float_array([value]) is not None and np.ndim(value) == 0


def _is_box(box: Any) -> bool:
    return isinstance(box, Iterable) and not isinstance(box, str) and [*map(_is_number, box)] == [True] * 4


def _unique_ids(ids: list[Any], where: str) -> list[Any]:
    if len(set(ids)) < len(ids):
        twice = next(value for place, value in enumerate(ids) if value in ids[:place])
        raise ValueError(f"{where}: id {twice!r} is given twice")
    return sorted(ids)


def _class_names(categories: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names in the order of the sorted ids; a name that two categories share gets its id appended."""
    by_id = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    names = list(by_id.values())
    return [name if names.count(name) == 1 else f"{name} (id {key})" for key, name in sorted(by_id.items())]
