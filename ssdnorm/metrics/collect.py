"""This file is about gathering detections and targets image by image, from batches and from many processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ssdnorm.metrics.arrays import DetectionArrays, GroundTruthArrays
from ssdnorm.structures import Detections, Target

ImageBoxes = Detections | Target | Mapping[str, Any]


@dataclass(frozen=True)
class ImageArrays:
    """Boxes of one image: ``labels`` ``(N,)``, ``boxes`` ``(N, 4)`` float64 xywh, the others ``(N,)``."""

    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray

    def equals(self, other: ImageArrays) -> bool:
        """Whether labels, boxes and scores are the same numbers."""
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("labels", "boxes", "scores"))


class Names:
    """Which labels there are, and what they are called.

    Args:
        class_names: names of labels 1, 2, …, with ``"__background__"`` first for label 0 if it is listed; or a
            mapping from label to name; or None for whatever labels come.
    """

    def __init__(self, class_names: Sequence[str] | Mapping[int, str] | None) -> None:
        if isinstance(class_names, str):
            raise ValueError(f"class_names: got the string {class_names!r}, allowed: a list of names")
        if class_names is None or isinstance(class_names, Mapping):
            self.by_label = None if class_names is None else {int(k): str(name) for k, name in class_names.items()}
            return
        first = 0 if len(class_names) and class_names[0] == "__background__" else 1
        self.by_label = {label: str(name) for label, name in enumerate(class_names, first) if label > 0}
        names = list(self.by_label.values())
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"class_names: {twice!r} is given twice")

    def check(self, labels: np.ndarray, where: str) -> None:
        """Refuse labels without a name, and 0, which is background."""
        allowed = (
            "1 or more" if self.by_label is None else f"{_spans(sorted(self.by_label))} ({len(self.by_label)} classes)"
        )
        for label in np.unique(labels).tolist():
            if label < 1 or (self.by_label is not None and label not in self.by_label):
                raise ValueError(f"{where}: labels: got {label}, allowed: {allowed}")

    def table(self, seen: set[int]) -> dict[int, str]:
        """Label to name, in the order of the labels."""
        return (
            {label: str(label) for label in sorted(seen)}
            if self.by_label is None
            else dict(sorted(self.by_label.items()))
        )


class Collected:
    """Images gathered so far, each with its ground truth and detections."""

    def __init__(self, names: Names, owner: str) -> None:
        self.names = names
        self.owner = owner
        self._images: dict[Any, tuple[ImageArrays, ImageArrays]] = {}

    def add(self, detections: Sequence[ImageBoxes], targets: Sequence[ImageBoxes]) -> None:
        """Add a batch; an image id that is already here must bring the same numbers, and counts once."""
        if len(detections) != len(targets):
            raise ValueError(f"{self.owner}.update: got {len(detections)} detections for {len(targets)} targets")
        for place, (found, target) in enumerate(zip(detections, targets, strict=True)):
            pair = (
                image_arrays(target, f"targets[{place}]", scored=False),
                image_arrays(found, f"detections[{place}]", scored=True),
            )
            for boxes, what in zip(pair, ("targets", "detections"), strict=True):
                self.names.check(boxes.labels, f"{what}[{place}]")
            key = _image_key(target, len(self._images))
            known = self._images.setdefault(key, pair)
            if known is not pair and not (known[0].equals(pair[0]) and known[1].equals(pair[1])):
                raise ValueError(
                    f"{self.owner}.update: image_id {key[1]!r} was given before with other boxes; call reset() first"
                )

    def arrays(self) -> tuple[GroundTruthArrays, DetectionArrays]:
        """All images as flat arrays; in a distributed run, those of all processes."""
        images = self._gathered()
        rows = [images[key] for key in sorted(images)]
        truth, found = (_flat([row[side] for row in rows]) for side in (0, 1))
        table = self.names.table({*truth.boxes.labels.tolist(), *found.boxes.labels.tolist()})
        labels = np.array(list(table), np.int64)
        return (
            GroundTruthArrays(
                image_ids=list(range(len(rows))),
                category_ids=list(table),
                class_names=list(table.values()),
                image=truth.image,
                category=np.searchsorted(labels, truth.boxes.labels),
                boxes=truth.boxes.boxes,
                area=truth.boxes.area,
                crowd=truth.boxes.crowd,
                difficult=truth.boxes.difficult,
            ),
            DetectionArrays(
                found.image, np.searchsorted(labels, found.boxes.labels), found.boxes.boxes, found.boxes.scores
            ),
        )

    def _gathered(self) -> dict[Any, tuple[ImageArrays, ImageArrays]]:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed or torch.distributed.get_world_size() == 1:
            return self._images
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self._images)
        together: dict[Any, tuple[ImageArrays, ImageArrays]] = {}
        for rank, part in enumerate(parts):
            for key, pair in part.items():
                together.setdefault(key if key[0] != _UNNAMED else (*key, rank), pair)
        return together


_UNNAMED = 1  # sorts after images that have an id, (0, id)


def _image_key(target: ImageBoxes, count: int) -> tuple[Any, ...]:
    image_id = target.get("image_id")
    if image_id is None:
        return (_UNNAMED, count)
    return (0, image_id.item() if hasattr(image_id, "item") else image_id)


@dataclass(frozen=True)
class _Flat:
    image: np.ndarray
    boxes: ImageArrays


def _flat(rows: list[ImageArrays]) -> _Flat:
    nothing = image_arrays({"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int64)}, "", scored=False)
    parts = [nothing, *rows]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(nothing)}
    counts = [len(row.labels) for row in rows]
    return _Flat(np.repeat(np.arange(len(rows)), counts), replace(nothing, **columns))


def image_arrays(item: ImageBoxes, where: str, *, scored: bool) -> ImageArrays:
    """One image's dict of tensors or arrays as checked arrays; xyxy becomes xywh in float64.

    Raises:
        ValueError: a missing key, lengths that differ, boxes that are inverted or no numbers, scores that are NaN.
    """
    for key in ("boxes", "labels", "scores") if scored else ("boxes", "labels"):
        if not isinstance(item, Mapping) or key not in item:
            got = sorted(item) if isinstance(item, Mapping) else type(item).__name__
            raise ValueError(f"{where}: {key!r} is missing; got {got}")
    boxes = _array(item["boxes"], np.float64)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{where}: boxes: got shape {boxes.shape}, allowed: (N, 4)")
    num = len(boxes)
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    bad = ~np.isfinite(boxes).all(1) | (xywh[:, 2:] < 0).any(1)
    if bad.any():
        box = boxes[int(np.argmax(bad))].tolist()
        raise ValueError(
            f"{where}: boxes[{int(np.argmax(bad))}]: got {box}, allowed: finite xyxy with x1 <= x2, y1 <= y2"
        )
    columns = {
        "labels": _per_box(item, "labels", np.int64, num, where),
        "scores": _per_box(item, "scores", np.float64, num, where) if scored else np.zeros(num),
        "area": _per_box(item, "area", np.float64, num, where, xywh[:, 2] * xywh[:, 3]),
        "crowd": _per_box(item, "iscrowd", np.bool_, num, where, np.zeros(num, bool)),
        "difficult": _per_box(item, "difficult", np.bool_, num, where, np.zeros(num, bool)),
    }
    for key in ("scores", "area"):
        if not np.isfinite(columns[key]).all():
            place = int(np.argmin(np.isfinite(columns[key])))
            raise ValueError(f"{where}: {key}[{place}]: got {columns[key][place]}, allowed: finite numbers")
    return ImageArrays(boxes=xywh, **columns)


def _per_box(
    item: Mapping[str, Any], key: str, dtype: type, num: int, where: str, default: np.ndarray | None = None
) -> np.ndarray:
    if default is not None and item.get(key) is None:
        return default
    values = _array(item[key], dtype).reshape(-1)
    if len(values) != num:
        raise ValueError(f"{where}: {key}: got {len(values)} for {num} boxes")
    return values


def _array(values: Any, dtype: type) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64 if values.is_floating_point() else values.dtype).numpy()
    return np.asarray(values).astype(dtype)


def _spans(labels: list[int]) -> str:
    contiguous = labels == list(range(labels[0], labels[0] + len(labels))) if labels else False
    return f"{labels[0]} to {labels[-1]}" if contiguous else f"one of {labels}"
