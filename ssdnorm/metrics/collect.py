"""Collect detections and targets image by image, from batches and from many processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ssdnorm.structures import Detections, Target
from ssdnorm.tables import TEXT, DetectionTable, GroundTruth, id_array, xyxy_to_xywh

ImageBoxes = Detections | Target | Mapping[str, Any]
_Columns = dict[str, np.ndarray]
_NAMED, _UNNAMED = 0, 1  # images without an id sort after those with one
_OF_TARGETS = {"labels": np.int64, "area": np.float64, "iscrowd": np.bool_, "difficult": np.bool_}  # beside boxes
_OF_DETECTIONS = {"labels": np.int64, "scores": np.float64}


class ImageCollector:
    """Images gathered so far, each with its ground truth and detections; base of ``CocoMetric`` and ``VocMetric``.

    Args:
        class_names: names of labels 1, 2, …, with ``"__background__"`` first for label 0 if it is listed; or a
            mapping from label to name; or None for whatever labels come.
    """

    def __init__(self, class_names: Sequence[str] | Mapping[int, str] | None) -> None:
        self._names = _names_by_label(class_names)
        self._images: dict[tuple[Any, ...], tuple[_Columns, _Columns]] = {}

    def update(self, detections: Sequence[ImageBoxes], targets: Sequence[ImageBoxes]) -> None:
        """Add the detections and the ground truth of a batch; an image that comes again counts once.

        Raises:
            ValueError: lists or tensors of unequal length, inverted boxes, scores that are not numbers, labels that
                have no name, an image that comes again with other numbers (``reset`` was forgotten).
        """
        owner = type(self).__name__
        if len(detections) != len(targets):
            raise ValueError(f"{owner}.update: got {len(detections)} detections for {len(targets)} targets")
        for place, (found, target) in enumerate(zip(detections, targets, strict=True)):
            pair = (
                self._columns(target, _OF_TARGETS, f"targets[{place}]"),
                self._columns(found, _OF_DETECTIONS, f"detections[{place}]"),
            )
            image_id = target.get("image_id")
            image_id = image_id.item() if isinstance(image_id, torch.Tensor | np.generic) else image_id
            key = (_UNNAMED, len(self._images)) if image_id is None else (_NAMED, image_id)
            known = self._images.setdefault(key, pair)
            if not all(np.array_equal(known[side][name], pair[side][name]) for side in (0, 1) for name in pair[side]):
                raise ValueError(f"{owner}.update: image_id {image_id!r} came before with other boxes; call reset()")

    def reset(self) -> None:
        """Forget all images."""
        self._images = {}

    def tables(self) -> tuple[GroundTruth, DetectionTable]:
        """All images as tables; in a distributed run, those of all processes."""
        images = self._gathered()
        rows = [images[key] for key in sorted(images)]
        truth = _together([row[0] for row in rows], _OF_TARGETS)
        found = _together([row[1] for row in rows], _OF_DETECTIONS)
        names = self._names
        if names is None:
            seen = sorted({*truth["labels"].tolist(), *found["labels"].tolist()})
            names = {label: str(label) for label in seen}
        labels = np.array(sorted(names), np.int64)
        table = GroundTruth(
            image_ids=np.arange(len(rows)),
            sizes=np.zeros((len(rows), 2), np.int64),
            names=np.zeros(len(rows), TEXT),
            category_ids=id_array(labels.tolist()),
            class_names=tuple(names[label] for label in labels.tolist()),
            starts=np.cumsum([0, *(len(row[0]["labels"]) for row in rows)]),
            ids=np.arange(1, len(truth["labels"]) + 1),
            boxes=truth["boxes"],
            labels=np.searchsorted(labels, truth["labels"]) + 1,
            area=truth["area"],
            iscrowd=truth["iscrowd"],
            difficult=truth["difficult"],
        )
        return table, DetectionTable(
            image=np.repeat(np.arange(len(rows)), [len(row[1]["labels"]) for row in rows]),
            labels=np.searchsorted(labels, found["labels"]) + 1,
            boxes=found["boxes"],
            scores=found["scores"],
        )

    def _columns(self, item: ImageBoxes, dtypes: Mapping[str, type], where: str) -> _Columns:
        """One image's tensors or arrays as checked arrays; boxes xyxy become xywh in float64."""
        for key in ("boxes", "labels", *(["scores"] if "scores" in dtypes else [])):
            if not isinstance(item, Mapping) or key not in item:
                got = sorted(item) if isinstance(item, Mapping) else type(item).__name__
                raise ValueError(f"{where}: {key!r} is missing; got {got}")
        boxes = _array(item["boxes"], np.float64)
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise ValueError(f"{where}: boxes: got shape {boxes.shape}, allowed: (N, 4)")
        xywh = xyxy_to_xywh(boxes)
        good = np.isfinite(boxes).all(1) & (xywh[:, 2:] >= 0).all(1)
        if not good.all():
            row = int(np.argmin(good))
            got = boxes[row].tolist()
            raise ValueError(f"{where}: boxes[{row}]: got {got}, allowed: finite xyxy with x1 <= x2, y1 <= y2")
        none = np.zeros(len(xywh), bool)
        defaults = {"area": xywh[:, 2] * xywh[:, 3], "iscrowd": none, "difficult": none}
        columns = {"boxes": xywh}
        for key, dtype in dtypes.items():
            given = item.get(key)
            values = defaults[key] if given is None and key in defaults else _array(given, dtype).reshape(-1)
            if len(values) != len(xywh):
                raise ValueError(f"{where}: {key}: got {len(values)} for {len(xywh)} boxes")
            if not (finite := np.isfinite(values)).all():
                row = int(np.argmin(finite))
                raise ValueError(f"{where}: {key}[{row}]: got {values[row]}, allowed: finite numbers")
            columns[key] = values
        known = self._names
        for label in np.unique(columns["labels"]).tolist():
            if label < 1 or (known is not None and label not in known):
                allowed = "1 or more" if known is None else f"{_spans(sorted(known))} ({len(known)} classes)"
                raise ValueError(f"{where}: labels: got {label}, allowed: {allowed}")
        return columns

    def _gathered(self) -> dict[tuple[Any, ...], tuple[_Columns, _Columns]]:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed or torch.distributed.get_world_size() == 1:
            return self._images
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self._images)
        together: dict[tuple[Any, ...], tuple[_Columns, _Columns]] = {}
        for rank, part in enumerate(parts):
            for key, pair in part.items():
                together.setdefault(key if key[0] != _UNNAMED else (*key, rank), pair)
        return together


def _names_by_label(class_names: Sequence[str] | Mapping[int, str] | None) -> dict[int, str] | None:
    if isinstance(class_names, str):
        raise ValueError(f"class_names: got the string {class_names!r}, allowed: a list of names")
    if class_names is None or isinstance(class_names, Mapping):
        return None if class_names is None else {int(label): str(name) for label, name in class_names.items()}
    first = 0 if len(class_names) and class_names[0] == "__background__" else 1
    names = [str(name) for name in class_names[1 - first :]]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"class_names: {twice!r} is given twice")
    return dict(enumerate(names, 1))


def _together(rows: Sequence[_Columns], dtypes: Mapping[str, type]) -> _Columns:
    """The columns of several images, one after the other."""
    nothing = {"boxes": np.zeros((0, 4)), **{name: np.zeros(0, dtype) for name, dtype in dtypes.items()}}
    return {name: np.concatenate([empty, *(row[name] for row in rows)]) for name, empty in nothing.items()}


def _array(values: Any, dtype: type) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64 if values.is_floating_point() else values.dtype).numpy()
    return np.asarray(values).astype(dtype)


def _spans(labels: list[int]) -> str:
    contiguous = bool(labels) and labels == list(range(labels[0], labels[0] + len(labels)))
    return f"{labels[0]} to {labels[-1]}" if contiguous else f"one of {labels}"
