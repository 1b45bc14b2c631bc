"""This file is about the report's pictures: the same test images with each arm's detections side by side."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import torch
from PIL import Image
from torchvision.ops import box_iou

from ssdnorm.compare.results import ArmResult, Results
from ssdnorm.data.dataset import DetectionDataset

NUM_IMAGES = 5
_SIDE = 480  # pixels of the longest side
_QUALITY = 70  # of WebP
_IOU = 0.5  # from which a box counts as found
_LETTER = 0.058  # height of captions over that of the image
_MOST_CAPTIONS = 6  # objects of an image; the captions of more would hide each other and what is in the boxes
_COLOURS = ("#62c4ff", "#ffb02e", "#7ee787", "#ff8ad4", "#fff04d", "#c9b0ff")  # light, for lines on a dark ground
_OTHERS = "#ffffff"

Kind = Literal["object", "found", "wrong", "missed"]


@dataclass(frozen=True)
class DrawnBox:
    """A box, in pixels of the picture, with a caption that stays inside of it.

    Attributes:
        label: name of the class.
        leftward: the caption ends at ``caption_x``, instead of beginning there.
        kind: an object of the ground truth; a detection of one, or of none; an object that no detection found.
    """

    kind: Kind
    x: float
    y: float
    width: float
    height: float
    label: str
    caption: str
    leftward: bool
    caption_x: float
    caption_y: float


@dataclass(frozen=True)
class Panel:
    """One arm's boxes on a test image, or the ground truth's.

    Attributes:
        alt: what is in it, in words.
    """

    title: str
    alt: str
    boxes: list[DrawnBox]

    @property
    def tally(self) -> str:
        """How many boxes there are of each kind, as ``2 found, 1 missed``."""
        counts = Counter(box.kind for box in self.boxes)
        return ", ".join(f"{counts[kind]} {kind}" for kind in ("found", "wrong", "missed") if counts[kind])


@dataclass(frozen=True)
class Photo:
    """One test image, whose pixels all panels share.

    Attributes:
        uri: the pixels, a ``data:`` URI.
    """

    name: str
    uri: str
    width: int
    height: int
    panels: list[Panel]

    @property
    def letter(self) -> float:
        """Size of captions."""
        return self.height * _LETTER

    @property
    def captioned(self) -> bool:
        """Whether there is room for captions, the same for all panels."""
        return len(self.panels[0].boxes) <= _MOST_CAPTIONS


@dataclass(frozen=True)
class _Found:
    """Boxes of one image in the picture's pixels, xyxy; detections have scores, best first."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: Sequence[float] = ()


def photos_of(results: Results, root: Path, test_set: DetectionDataset, *, num_images: int = NUM_IMAGES) -> list[Photo]:
    """Test images at evenly spaced places of the test set, with the detections of each arm's first finished seed.

    Of every arm the best-scored detections are drawn, as many as there are objects in the image, so that arms whose
    scores have another scale are shown alike. A detection has found an object if it has its class, an IoU of 0.5 or
    more with it, and no better-scored one has found it. No photos where no arm has detections.
    """
    spaced = np.linspace(0, len(test_set) - 1, min(num_images, len(test_set)))
    places = np.unique(spaced.round().astype(int)).tolist()
    ids = {test_set.image_id(place) for place in places}
    detections = {
        arm.name: _read_detections(root / folder / "detections.json", ids)
        for arm in results.arms
        if (folder := _folder_shown(arm, root)) is not None
    }
    return [_photo(place, detections, test_set) for place in places] if detections else []


def seeds_shown(results: Results, root: Path) -> dict[str, int]:
    """Arm → the seed of the run whose detections are drawn."""
    folders = {arm.name: _folder_shown(arm, root) for arm in results.arms}
    return {arm.name: run.seed for arm in results.arms for run in arm.runs if run.folder == folders[arm.name]}


def class_colours(photos: Sequence[Photo]) -> dict[str, str]:
    """Class → colour of its boxes, the commonest class first; those beyond the sixth share white."""
    counts = Counter(box.label for photo in photos for panel in photo.panels for box in panel.boxes)
    return dict(zip((name for name, _ in counts.most_common()), chain(_COLOURS, repeat(_OTHERS)), strict=False))


def _folder_shown(arm: ArmResult, root: Path) -> str | None:
    folders = (run.folder for run in arm.chosen_runs)
    return next((folder for folder in folders if (root / folder / "detections.json").is_file()), None)


def _read_detections(path: Path, ids: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Of some images, best score first."""
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in orjson.loads(path.read_bytes()):
        if one["image_id"] in ids:
            by_image.setdefault(one["image_id"], []).append(one)
    return {image: sorted(found, key=lambda one: -one["score"]) for image, found in by_image.items()}


def _photo(
    place: int, detections: Mapping[str, Mapping[int, list[dict[str, Any]]]], test_set: DetectionDataset
) -> Photo:
    image = Image.fromarray(test_set.load_image(place))
    scale = min(1.0, _SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    encoded = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(encoded, "WEBP", quality=_QUALITY)
    target = test_set.target(place)
    single = ~target["iscrowd"].numpy()
    objects = _Found(target["boxes"].numpy()[single] * scale, target["labels"].numpy()[single])
    names, size = test_set.class_names, (width, height)
    truth = [
        _drawn("object", box, names[label - 1], "", size)
        for box, label in zip(objects.boxes, objects.labels, strict=True)
    ]
    words = ", ".join(box.caption for box in truth) or "no objects"
    panels = [Panel("ground truth", f"ground truth: {words}", truth)]
    for arm, by_image in detections.items():
        best = by_image.get(test_set.image_id(place), [])[: len(objects.labels)]
        panels.append(_panel(arm, _found(best, test_set, scale), objects, names, size))
    uri = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return Photo(test_set.image_name(place), uri, width, height, panels)


def _found(detections: Sequence[dict[str, Any]], test_set: DetectionDataset, scale: float) -> _Found:
    boxes = np.array([one["bbox"] for one in detections], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
    labels = np.array([1 + test_set.category_ids.index(one["category_id"]) for one in detections], np.int64)
    return _Found(boxes * scale, labels, [one["score"] for one in detections])


def _panel(arm: str, found: _Found, objects: _Found, names: Sequence[str], size: tuple[int, int]) -> Panel:
    hits = _match(found, objects)
    boxes = []
    for place, (box, label, score) in enumerate(zip(found.boxes, found.labels, found.scores, strict=True)):
        kind: Kind = "found" if place in hits else "wrong"
        boxes.append(_drawn(kind, box, names[label - 1], f" {score:.2f}", size))
    for place, (box, label) in enumerate(zip(objects.boxes, objects.labels, strict=True)):
        if place not in hits.values():
            boxes.append(_drawn("missed", box, names[label - 1], "", size))
    words = ", ".join(f"{box.kind} {box.caption}" for box in boxes) or "no boxes"
    return Panel(arm, f"{arm}: {words}", boxes)


def _match(found: _Found, objects: _Found) -> dict[int, int]:
    """Detection → object, the best-scored detection first."""
    if not len(found.labels) or not len(objects.labels):
        return {}
    overlap = box_iou(torch.as_tensor(found.boxes), torch.as_tensor(objects.boxes, dtype=torch.float64)).numpy()
    overlap[found.labels[:, None] != objects.labels[None]] = 0.0
    hits: dict[int, int] = {}
    for detection, row in enumerate(overlap):
        row[list(hits.values())] = 0.0
        if row.max() >= _IOU:
            hits[detection] = int(row.argmax())
    return hits


def _drawn(kind: Kind, box: np.ndarray, label: str, score: str, size: tuple[int, int]) -> DrawnBox:
    x1, y1, x2, y2 = (round(float(value), 1) for value in box)
    letter = _LETTER * size[1]
    leftward = x1 + x2 > size[0]
    caption_x = min(x2, size[0] - 2.0) if leftward else max(x1, 2.0)
    caption_y = y1 - 0.25 * letter if y1 > 1.3 * letter else max(y1, 0.0) + 1.05 * letter
    width, height = round(x2 - x1, 1), round(y2 - y1, 1)
    caption_at = round(caption_x, 1), round(caption_y, 1)
    return DrawnBox(kind, x1, y1, width, height, label, f"{label}{score}", leftward, *caption_at)
