"""The report's pictures: the same test images with each arm's detections side by side."""

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
from ssdnorm.plots.colors import BOX_COLORS

_SIDE = 480  # pixels of the longest side
_QUALITY = 70  # of WebP
_IOU = 0.5  # from which an object counts as found
_LETTER = 0.058  # size of captions, relative to the height of the image
_MOST_CAPTIONS = 6  # objects of an image; more captions would hide each other

Kind = Literal["object", "found", "wrong", "missed"]


@dataclass(frozen=True)
class MarkedBox:
    """A box in pixels of the picture, with the place of a caption that stays inside it.

    Attributes:
        label: name of the class.
        kind: an object of the ground truth; a detection of one, or of none; an object that no detection found.
        leftward: whether the caption ends at ``caption_x`` instead of starting there.
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
    """The boxes of one arm, or of the ground truth, on a test image."""

    title: str
    boxes: list[MarkedBox]

    @property
    def tally(self) -> str:
        """Number of boxes by kind, as ``2 found, 1 missed``."""
        counts = Counter(box.kind for box in self.boxes)
        return ", ".join(f"{counts[kind]} {kind}" for kind in ("found", "wrong", "missed") if counts[kind])

    @property
    def alt(self) -> str:
        """The boxes in words."""
        words = (box.caption if box.kind == "object" else f"{box.kind} {box.caption}" for box in self.boxes)
        return f"{self.title}: {', '.join(words) or 'no boxes'}"


@dataclass(frozen=True)
class Photo:
    """One test image, whose pixels (a ``data:`` URI) all panels share; the first panel is the ground truth."""

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
        """Whether there is space for captions, in all panels alike."""
        return len(self.panels[0].boxes) <= _MOST_CAPTIONS


@dataclass(frozen=True)
class _Boxes:
    """Boxes of one image in pixels of the picture, xyxy; detections have scores, best first."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: Sequence[float] = ()


def photos_of(results: Results, root: Path, test_set: DetectionDataset, *, num_images: int = 5) -> list[Photo]:
    """Evenly spaced test images with the detections of each arm's first finished seed; empty if there are none.

    Of every arm the best-scored detections are drawn, as many as the image has objects, so that arms whose scores have
    another scale are treated alike. A detection finds an object of its class with an IoU of 0.5 or more that no
    better-scored one has found.
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
    """Arm → seed of the run whose detections are drawn."""
    folders = {arm.name: _folder_shown(arm, root) for arm in results.arms}
    return {arm.name: run.seed for arm in results.arms for run in arm.runs if run.folder == folders[arm.name]}


def class_colors(photos: Sequence[Photo]) -> dict[str, str]:
    """Class → colour of its boxes, the most frequent class first; white where the colours run out."""
    counts = Counter(box.label for photo in photos for panel in photo.panels for box in panel.boxes)
    return dict(zip((name for name, _ in counts.most_common()), chain(BOX_COLORS, repeat("#ffffff")), strict=False))


def _folder_shown(arm: ArmResult, root: Path) -> str | None:
    folders = (run.folder for run in arm.chosen_runs)
    return next((folder for folder in folders if (root / folder / "detections.json").is_file()), None)


def _read_detections(path: Path, ids: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Detections of some images, best score first."""
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
    objects = _Boxes(target["boxes"].numpy()[single] * scale, target["labels"].numpy()[single])
    names, size = test_set.class_names, (width, height)
    truth = zip(objects.boxes, objects.labels, strict=True)
    panels = [Panel("ground truth", [_marked("object", box, names[label - 1], "", size) for box, label in truth])]
    for arm, by_image in detections.items():
        best = by_image.get(test_set.image_id(place), [])[: len(objects.labels)]
        panels.append(Panel(arm, _compare(_found(best, test_set, scale), objects, names, size)))
    uri = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return Photo(test_set.image_name(place), uri, width, height, panels)


def _found(detections: Sequence[dict[str, Any]], test_set: DetectionDataset, scale: float) -> _Boxes:
    boxes = np.array([one["bbox"] for one in detections], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
    labels = np.array([1 + test_set.category_ids.index(one["category_id"]) for one in detections], np.int64)
    return _Boxes(boxes * scale, labels, [one["score"] for one in detections])


def _compare(found: _Boxes, objects: _Boxes, names: Sequence[str], size: tuple[int, int]) -> list[MarkedBox]:
    """The detections, found or wrong, and the objects that they miss."""
    overlap = box_iou(torch.as_tensor(found.boxes), torch.as_tensor(objects.boxes, dtype=torch.float64)).numpy()
    overlap[found.labels[:, None] != objects.labels[None]] = 0.0
    taken: set[int] = set()
    boxes = []
    for row, box, label, score in zip(overlap, found.boxes, found.labels, found.scores, strict=True):
        row[list(taken)] = 0.0
        hit = row.max(initial=0.0) >= _IOU
        if hit:
            taken.add(int(row.argmax()))
        boxes.append(_marked("found" if hit else "wrong", box, names[label - 1], f" {score:.2f}", size))
    missed = [g for g in range(len(objects.labels)) if g not in taken]
    return boxes + [_marked("missed", objects.boxes[g], names[objects.labels[g] - 1], "", size) for g in missed]


def _marked(kind: Kind, box: np.ndarray, label: str, score: str, size: tuple[int, int]) -> MarkedBox:
    x1, y1, x2, y2 = (round(float(value), 1) for value in box)
    letter = _LETTER * size[1]
    leftward = x1 + x2 > size[0]
    caption_x = min(x2, size[0] - 2.0) if leftward else max(x1, 2.0)
    caption_y = y1 - 0.25 * letter if y1 > 1.3 * letter else max(y1, 0.0) + 1.05 * letter
    corner, extent = (x1, y1), (round(x2 - x1, 1), round(y2 - y1, 1))
    caption_at = round(caption_x, 1), round(caption_y, 1)
    return MarkedBox(kind, *corner, *extent, label, f"{label}{score}", leftward, *caption_at)
