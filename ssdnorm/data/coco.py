"""This file is about COCO's instances files: one JSON for all annotations, category ids with holes, crowd regions."""

from __future__ import annotations

import gc
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from ssdnorm.data.bad_annotations import BOX_KINDS, BOX_REASONS, Problems, find_bad_boxes, unknown_name
from ssdnorm.data.dataset import AnnotationTable, DetectionDataset, PackedStrings
from ssdnorm.data.images import check_image_file

Json = dict[str, Any]


class CocoDataset(DetectionDataset):
    """Images and boxes of a COCO instances file.

    Category ids may have holes: labels are 1 … C in the order of ``categories`` in the file, or of ``class_names``.
    Crowd regions are ground truth for evaluation and never trained on. Boxes are xywh in 0-based pixel edges, float64.

    Args:
        annotations: the JSON file.
        images: the folder with its images.
        class_names: a subset or another order of the file's categories; the annotations of the others are left out and
            counted. Otherwise all of them.
        on_bad_annotation: ``drop`` leaves out annotations without a usable box and images that are missing (and, where
            checked, truncated), with a message each; ``error`` refuses them.
        check_images: read every image's header and end while loading (some 50 µs each). Otherwise only their presence
            is checked, the sizes in the file are believed, and a truncated image is an error when its turn comes.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: anything else that cannot be used.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        on_bad_annotation: str = "drop",
        check_images: bool = False,
    ) -> None:
        path, folder = Path(annotations), Path(images)
        problems = Problems(on_bad_annotation, where=path.name)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of images")
        with _no_garbage_collection():  # nothing in a freshly parsed file is garbage; looking for it doubles the time
            content = _read_json(path)
            category_ids, names = _choose_categories(content["categories"], class_names, path.name)
            records = _usable_images(content["images"], folder, check_images, problems)
            if not records:
                first = next(iter(problems.messages), "the file lists none")
                raise ValueError(f"{path.name}: no usable image in {folder}. First problem: {first}")
            dropped = {record["id"] for record in content["images"]} - {record["id"] for record in records}
            all_ids = {category["id"] for category in content["categories"]}
            table = _table(records, content["annotations"], category_ids, all_ids, dropped, folder, problems)
        problems.report()
        super().__init__(table, names, category_ids, problems=problems)


def _read_json(path: Path) -> Json:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such annotation file")
    data = path.read_bytes()
    try:
        content = orjson.loads(_without_outlines(data))  # 450 MB of COCO's train2017 in an eighth of json's time
    except ValueError:
        try:
            content = json.loads(data)  # takes NaN, which is then reported with its annotation
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from None
    for key, columns in {"images": ("id", "file_name"), "annotations": (), "categories": ("id", "name")}.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise ValueError(f"{path}: has no list {key!r}; expected a COCO instances file")
        for place, row in enumerate(rows):
            if not isinstance(row, dict) or any(column not in row for column in columns):
                raise ValueError(f"{path}: {key}[{place}]: expected a mapping with {' and '.join(columns) or 'values'}")
            if columns and not isinstance(row["id"], int):
                raise ValueError(f"{path}: {key}[{place}]: expected a whole number as id; got {row['id']!r}")
        repeated = [item for item, times in Counter(row["id"] for row in rows if columns).items() if times > 1]
        if repeated:
            raise ValueError(f"{path}: {key}: id {repeated[0]} is given more than once")
    return content


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


def _choose_categories(
    categories: list[Json], class_names: Sequence[str] | None, where: str
) -> tuple[list[int], list[str]]:
    ids = {category["name"]: int(category["id"]) for category in categories}
    if class_names is None:
        names = [category["name"] for category in categories]
    else:
        names = list(class_names)
        for name in names:
            if name not in ids:
                raise ValueError(f"class_names: {unknown_name(f'category of {where}', name, ids)}")
    if not names or isinstance(class_names, str) or len(set(names)) < len(names):
        raise ValueError(
            f"class_names: expected different names of categories of {where}; got {class_names or names!r}"
        )
    return [ids[name] for name in names], names


def _usable_images(records: list[Json], folder: Path, check_images: bool, problems: Problems) -> list[Json]:
    present = {entry.name for entry in os.scandir(folder)}
    usable = []
    for record in records:
        name = record["file_name"]
        if name not in present and not (("/" in name) and (folder / name).is_file()):
            problems.drop("missing", f"{problems.where}: image {record['id']}: no {name} in {folder}")
            continue
        if check_images or not (record.get("width") and record.get("height")):
            try:
                (height, width), orientation = check_image_file(folder / name)
            except (OSError, ValueError) as error:
                problems.drop("image", str(error))
                continue
            annotated = (record.get("height") or height, record.get("width") or width)
            if annotated != (height, width):
                hint = f"; its EXIF orientation {orientation} is not applied" if orientation != 1 else ""
                said = f"says {annotated[1]} × {annotated[0]}, {name} has {width} × {height}"
                problems.note("size", f"{problems.where}: image {record['id']}: {said}{hint}")
            record = {**record, "height": height, "width": width}
        usable.append(record)
    return usable


def _table(
    images: list[Json],
    annotations: list[Json],
    category_ids: list[int],
    all_category_ids: set[int],
    dropped_images: set[int],
    folder: Path,
    problems: Problems,
) -> AnnotationTable:
    place_of = {image["id"]: place for place, image in enumerate(images)}
    label_of = {category_id: label for label, category_id in enumerate(category_ids, start=1)}
    sizes = np.array([(image["height"], image["width"]) for image in images], np.int64)
    owners = np.array([place_of.get(item.get("image_id", -1), -1) for item in annotations], np.int64)
    labels = np.array([label_of.get(item.get("category_id", 0), 0) for item in annotations], np.int64)
    boxes = np.array([_bbox(item) for item in annotations], np.float64).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    kinds = find_bad_boxes(corners, sizes[owners])

    keep = (owners >= 0) & (labels > 0) & ((kinds == 0) | (kinds == BOX_KINDS.index("clipped")))
    left_out = 0
    for row in np.flatnonzero(~keep).tolist():
        item, kind = annotations[row], BOX_KINDS[kinds[row]]
        where = f"{problems.where}: annotation {item.get('id', f'number {row}')}"
        image_id, category_id = item.get("image_id"), item.get("category_id")
        if owners[row] < 0:
            if image_id not in dropped_images:
                problems.drop("no image", f"{where}: image_id {image_id} is not among the images")
        elif category_id not in all_category_ids:
            problems.drop("class", f"{where}: category_id {category_id} is not among the categories")
        elif labels[row] == 0:
            left_out += 1
        else:
            height, width = sizes[owners[row]]
            reason = BOX_REASONS[kind].format(height=height, width=width)
            name = images[owners[row]]["file_name"]
            problems.drop(kind, f"{where} of {name} (category {category_id}): bbox {item.get('bbox')} {reason}")
    problems.count("clipped", int((kinds[keep] > 0).sum()))
    problems.count("left out", left_out)

    rows = np.flatnonzero(keep)
    kept = [annotations[row] for row in rows.tolist()]  # in the file's order, as they lie in memory
    area = np.array([_area(item) for item in kept], np.float64)
    iscrowd = np.array([bool(item.get("iscrowd", 0)) for item in kept], bool)
    ids = [item.get("id") for item in kept]
    by_image = np.argsort(owners[rows], kind="stable")
    rows = rows[by_image]
    counts = np.bincount(owners[rows], minlength=len(images))
    return AnnotationTable(
        image_ids=np.array([image["id"] for image in images], np.int64),
        sizes=sizes,
        names=PackedStrings([image["file_name"] for image in images]),
        paths=PackedStrings([str(folder / image["file_name"]) for image in images]),
        starts=np.concatenate([[0], np.cumsum(counts)]),
        annotation_ids=_usable_ids(ids, by_image),
        boxes_xywh=boxes[rows],
        labels=labels[rows],
        area=area[by_image],
        difficult=np.zeros(len(rows), bool),
        iscrowd=iscrowd[by_image],
    )


_NO_BOX = (np.nan,) * 4


def _bbox(annotation: Json) -> Sequence[float]:
    bbox = annotation.get("bbox")
    if isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(value, (int, float)) for value in bbox):
        return bbox
    return _NO_BOX


def _area(item: Mapping[str, Any]) -> float:
    area = item.get("area")
    return item["bbox"][2] * item["bbox"][3] if area is None else area


def _usable_ids(ids: list[Any], order: np.ndarray) -> np.ndarray:
    """The file's ids in a new order where every annotation has its own, else 1, 2, …"""
    if all(isinstance(item, int) for item in ids) and len(set(ids)) == len(ids):
        return np.array(ids, np.int64)[order]
    return np.arange(1, len(ids) + 1)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
