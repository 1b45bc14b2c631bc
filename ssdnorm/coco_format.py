"""Read and write COCO's two formats: instances (ground truth) and results (detections)."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ssdnorm.tables import DetectionTable, GroundTruth, PackedStrings, id_array

OnBad = Callable[[str, str], None]
_RESULT_KEYS = ("image_id", "category_id", "bbox", "score")
_CHUNK_BYTES = 65_536


def refuse(_kind: str, message: str) -> None:
    """The strict answer to a bad annotation.

    Raises:
        ValueError: always, with the message.
    """
    raise ValueError(message)


def load_ground_truth(path: str | Path, *, on_bad: OnBad = refuse) -> GroundTruth:
    """Read a COCO instances file; arguments and errors as in :func:`ground_truth_table`.

    Raises:
        FileNotFoundError: no such file. ValueError: not JSON, or not an instances file; the message names the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    with _no_garbage_collection():
        content = _parse(_without_outlines(Path(path).read_bytes()), path)
        try:
            return ground_truth_table(content, on_bad=on_bad)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def ground_truth_table(ground_truth: Mapping[str, Any] | GroundTruth, *, on_bad: OnBad = refuse) -> GroundTruth:
    """Ground truth in COCO's instances format (``images``, ``annotations``, ``categories``) as a table.

    ``area`` defaults to width × height, ``iscrowd`` and ``difficult`` to 0, a category's name to its id. Images and
    classes keep the order of the file; an id can be any hashable value.

    Args:
        on_bad: called with kind and message for an annotation of an unknown image (``no image``) or category
            (``class``), for a box that is ``not finite`` or ``inverted``, and for an area that is not a number
            (``object``). If it returns, the annotation is left out.

    Raises:
        ValueError: a part is missing, an id is given twice, a value has the wrong type; whatever ``on_bad`` raises.
    """
    if isinstance(ground_truth, GroundTruth):
        return ground_truth
    if not isinstance(ground_truth, Mapping):
        raise ValueError(f"ground truth: got {type(ground_truth).__name__}, allowed: a dict in COCO's format")
    images, annotations, categories = (_rows_of(ground_truth, key) for key in ("images", "annotations", "categories"))
    image_ids, category_ids = _unique_ids(images, "images"), _unique_ids(categories, "categories")
    owner = _places([row.get("image_id") for row in annotations], image_ids)
    label = _places([row.get("category_id") for row in annotations], category_ids) + 1
    boxes = _boxes([row.get("bbox") for row in annotations])
    given_area = [row.get("area") for row in annotations]
    area = _floats(given_area)
    if None in given_area:
        area = np.where([value is None for value in given_area], boxes[:, 2] * boxes[:, 3], area)
    good = (owner >= 0) & (label > 0) & _are_boxes(boxes) & np.isfinite(area)
    for row in np.flatnonzero(~good).tolist():
        kind, message = _describe(annotations[row], owner[row] >= 0, label[row] > 0, boxes[row], "area")
        which = f" (id {annotations[row]['id']})" if "id" in annotations[row] else ""
        on_bad(kind, f"annotations[{row}]{which}: {message}")
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(owner[rows], kind="stable")]
    kept = [annotations[row] for row in rows.tolist()]
    sizes = np.stack([np.nan_to_num(_floats([image.get(key) for image in images])) for key in ("height", "width")], 1)
    return GroundTruth(
        image_ids=image_ids,
        sizes=sizes.astype(np.int64),
        names=PackedStrings([str(image.get("file_name", "")) for image in images]),
        category_ids=category_ids,
        class_names=_class_names(categories),
        starts=np.searchsorted(owner[rows], np.arange(len(images) + 1)),
        ids=_annotation_ids(kept),
        boxes=boxes[rows],
        labels=label[rows],
        area=area[rows],
        iscrowd=np.array([bool(row.get("iscrowd")) for row in kept], bool),
        difficult=np.array([bool(row.get("difficult")) for row in kept], bool),
    )


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


def load_detections(path: str | Path, truth: GroundTruth) -> DetectionTable:
    """Read a COCO result file; errors as in :func:`detection_table`, with the name of the file.

    Raises:
        ValueError: not JSON, cut off, not a list.
    """
    data = Path(path).read_bytes()
    with _no_garbage_collection():
        try:
            return detection_table(_result_columns(data), truth)
        except (ValueError, KeyError, TypeError, IndexError):
            pass  # read once more as a whole, for the message
        content = _parse(data, path)
        if not isinstance(content, list):
            raise ValueError(
                f"{path}: got a {type(content).__name__}, allowed: a list of detections in COCO's result format"
            )
        try:
            return detection_table(content, truth)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def detection_table(
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | DetectionTable, truth: GroundTruth
) -> DetectionTable:
    """Detections in COCO's result format as a table that points into a ground truth.

    Args:
        detections: dicts with ``image_id``, ``category_id``, ``bbox`` (xywh, pixels) and ``score``; or one dict of
            four columns under the same names (``bbox`` of shape ``(D, 4)``), which skips the dicts.

    Raises:
        ValueError: an id that the ground truth does not have, a score that is not finite, an inverted box, a missing
            key.
    """
    if isinstance(detections, DetectionTable):
        return detections
    if isinstance(detections, Mapping):
        for key in _RESULT_KEYS:
            if key not in detections:
                raise ValueError(f"detections: column {key!r} is missing; got {sorted(map(str, detections))}")
        columns = [detections[key] for key in _RESULT_KEYS]
        if len({len(column) for column in columns}) > 1:
            lengths = ", ".join(str(len(column)) for column in columns)
            raise ValueError(f"detections: image_id, category_id, bbox, score must be equally long; got {lengths}")
    else:
        _check_dicts(detections, "detections")
        columns = [[row.get(key) for row in detections] for key in _RESULT_KEYS]
    image, label = _places(columns[0], truth.image_ids), _places(columns[1], truth.category_ids) + 1
    boxes, scores = _boxes(columns[2]), _floats(columns[3])
    good = (image >= 0) & (label > 0) & _are_boxes(boxes) & np.isfinite(scores)
    if not good.all():
        row = int(np.argmin(good))
        values = {key: _plain(column[row]) for key, column in zip(_RESULT_KEYS, columns, strict=True)}
        _, message = _describe(values, image[row] >= 0, label[row] > 0, boxes[row], "score")
        raise ValueError(f"detections[{row}]: {message} ({(~good).sum()} of {len(good)} detections cannot be used)")
    return DetectionTable(image, label, boxes, scores)


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


def _parse(data: bytes, path: str | Path) -> Any:
    try:
        return orjson.loads(data)  # eight times faster than json on COCO's train2017
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data)  # takes NaN, which is then refused with its place
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not JSON: the bytes are not text in UTF-8") from None


def _result_columns(data: bytes) -> dict[str, Any]:
    """The four columns of a result file, parsed in pieces: half the time and a tenth of the memory.

    A piece ends at ``},``. Where that is inside an object or a string, the piece is not valid JSON by itself, and the
    parser says so; pieces that are all valid hold exactly the rows of the file.
    """
    at, end = data.index(b"[") + 1, data.rindex(b"]")
    if data[: at - 1].strip() or data[end + 1 :].strip():
        raise ValueError("not a list")
    parts = [_column_arrays([])]
    while at < end:
        stop = data.find(b"},", at + _CHUNK_BYTES, end)
        stop = end if stop < 0 else stop + 1
        parts.append(_column_arrays(orjson.loads(b"[%b]" % data[at:stop])))
        at = stop + 1
    columns = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    return dict(zip(_RESULT_KEYS, columns, strict=True))


def _column_arrays(rows: list[Mapping[str, Any]]) -> list[np.ndarray]:
    """Image ids, category ids, boxes and scores; the ids must be integers."""
    columns = list(zip(*map(itemgetter(*_RESULT_KEYS), rows), strict=True)) if rows else [()] * 4
    ids = [np.asarray(column if rows else np.empty(0, np.int64)) for column in columns[:2]]
    if any(array.dtype.kind not in "iu" for array in ids):
        raise ValueError("ids that are not integers")
    return [*ids, _boxes(columns[2]), _floats(columns[3])]


_LIST_FOLLOWS = re.compile(rb"\s*:\s*\[")


def _without_outlines(data: bytes) -> bytes:
    """The JSON with every list of numbers under ``"segmentation"`` emptied: most of a COCO file, and not read here.

    In JSON the bytes ``"segmentation"`` before a colon are a key, since a quote inside a string has a backslash.
    """
    key, parts, done, at = b'"segmentation"', [], 0, 0
    while (at := data.find(key, at)) >= 0:
        at += len(key)
        follows = _LIST_FOLLOWS.match(data, at)
        if follows is None:
            continue  # run-length code, null
        start = follows.end() - 1
        next_quote, object_end = data.find(b'"', start), data.find(b"}", start)
        limit = object_end if next_quote < 0 else min(next_quote, object_end)
        stop = data.rfind(b"]", start, limit) + 1
        if stop and data.count(b"[", start, stop) == data.count(b"]", start, stop):
            parts += [data[done:start], b"[]"]
            done = at = stop
    return b"".join([*parts, data[done:]])


def _rows_of(content: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, Sequence):
        raise ValueError(f"ground truth: {key!r} is missing or not a list; got keys {sorted(content)}")
    _check_dicts(rows, key)
    return rows


def _check_dicts(rows: Any, where: str) -> None:
    if isinstance(rows, str) or not isinstance(rows, Iterable):
        raise ValueError(f"{where}: got {type(rows).__name__}, allowed: a list of dicts")
    if set(map(type, rows)) - {dict}:
        for place, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise ValueError(f"{where}[{place}]: got {type(row).__name__}, allowed: a dict")


def _unique_ids(rows: Sequence[Mapping[str, Any]], where: str) -> np.ndarray:
    for place, row in enumerate(rows):
        if "id" not in row:
            raise ValueError(f"{where}[{place}]: 'id' is missing; got keys {sorted(map(str, row))}")
    ids = [row["id"] for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(value for place, value in enumerate(ids) if value in ids[:place])
        raise ValueError(f"{where}: id {twice!r} is given twice")
    return id_array(ids)


def _class_names(categories: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The categories' names; one that two categories share gets the id appended."""
    names = [str(category.get("name", category["id"])) for category in categories]
    return tuple(
        name if names.count(name) == 1 else f"{name} (id {category['id']})"
        for name, category in zip(names, categories, strict=True)
    )


def _annotation_ids(annotations: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The file's ids where every annotation has its own, else 1, 2, …"""
    ids = [row.get("id") for row in annotations]
    if all(isinstance(item, int) for item in ids) and len(set(ids)) == len(ids):
        return id_array(ids)
    return np.arange(1, len(ids) + 1)


def _describe(
    row: Mapping[str, Any], has_image: bool, has_category: bool, box: np.ndarray, number: str
) -> tuple[str, str]:
    """Kind and message of the first thing that is wrong with an annotation or a detection."""
    if not has_image:
        return "no image", f"image_id {row.get('image_id')!r} is not among the images"
    if not has_category:
        return "class", f"category_id {row.get('category_id')!r} is not among the categories"
    if not np.isfinite(box).all():
        return "not finite", f"bbox: got {row.get('bbox')!r}, allowed: four finite numbers x, y, width, height"
    if (box[2:] < 0).any():
        return "inverted", f"bbox: got {row.get('bbox')!r}, allowed: width and height of at least 0 (not xyxy)"
    return "object", f"{number}: got {row.get(number)!r}, allowed: a finite number"


def _places(ids: Any, known: np.ndarray) -> np.ndarray:
    """Where each id stands among the known ones, −1 for one that is not there; ``(N,)`` int64."""
    try:
        numbers = np.asarray(ids) if known.dtype != object and len(known) else np.empty(0, object)
    except ValueError:  # lists among them
        numbers = np.empty(0, object)
    if numbers.dtype.kind in "iu":
        order = np.argsort(known, kind="stable")
        found = order[np.searchsorted(known[order], numbers).clip(max=len(known) - 1)]
        return np.where(known[found] == numbers, found, -1)
    index = {name: place for place, name in enumerate(known.tolist())}
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    return np.array([index.get(value, -1) if isinstance(value, Hashable) else -1 for value in values], np.int64)


def _boxes(boxes: Any) -> np.ndarray:
    """Boxes as ``(N, 4)`` float64, NaN where one is not four numbers."""
    if isinstance(boxes, np.ndarray) and boxes.ndim == 2 and boxes.shape[1] == 4:
        return _floats(boxes.reshape(-1)).reshape(-1, 4)
    try:
        if set(map(len, boxes)) <= {4}:
            return _floats(list(chain.from_iterable(boxes))).reshape(-1, 4)  # four times faster than nested lists
    except TypeError:  # None among them
        pass
    rows = [box if isinstance(box, list | tuple | np.ndarray) and len(box) == 4 else [np.nan] * 4 for box in boxes]
    return _floats(list(chain.from_iterable(rows))).reshape(-1, 4)


def _are_boxes(boxes: np.ndarray) -> np.ndarray:
    return np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)


def _floats(values: Any) -> np.ndarray:
    """Numbers as float64; NaN where one is something else (text, bool, None), which NumPy would convert."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "fiu":
            return array.astype(np.float64)
    except ValueError:  # lists among them
        pass
    return np.array([v if isinstance(v, int | float) and not isinstance(v, bool) else np.nan for v in values], float)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Nothing in a freshly parsed file is garbage; looking for it doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
