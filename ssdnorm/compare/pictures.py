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

from ssdnorm.compare.results import Results, Run
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
        kind: an object of the ground truth; a detection of one, or of none; an object that no detection found.
        label: name of the class.
        leftward: whether the caption ends at ``caption_x`` instead of starting there.
    """

    kind: Kind
    label: str
    caption: str
    x: float
    y: float
    width: float
    height: float
    caption_x: float
    caption_y: float
    leftward: bool


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


def shown_runs(results: Results, root: Path) -> dict[str, Run]:
    """Arm → the run whose detections are drawn: its first finished seed that has them."""
    shown: dict[str, Run] = {}
    for run in (run for arm in results.arms for run in arm.finished_runs):
        if run.arm not in shown and (root / run.folder / "detections.json").is_file():
            shown[run.arm] = run
    return shown


def photos_of(shown: Mapping[str, Run], root: Path, test_set: DetectionDataset, *, num_images: int = 5) -> list[Photo]:
    """Evenly spaced test images with the detections of each arm; empty if there are none.

    Of every arm the best-scored detections are drawn, as many as the image has objects, so that arms whose scores have
    another scale are treated alike. A detection finds an object of its class with an IoU of 0.5 or more that no
    better-scored one has found.
    """
    spaced = np.linspace(0, len(test_set) - 1, min(num_images, len(test_set)))
    places = np.unique(spaced.round().astype(int)).tolist()
    ids = {test_set.image_id(place) for place in places}
    detections = {arm: _read_detections(root / run.folder / "detections.json", ids) for arm, run in shown.items()}
    return [_photo(place, detections, test_set) for place in places] if shown else []


def class_colors(photos: Sequence[Photo]) -> dict[str, str]:
    """Class → colour of its boxes, the most frequent class first; white where the colours run out."""
    counts = Counter(box.label for photo in photos for panel in photo.panels for box in panel.boxes)
    return dict(zip((name for name, _ in counts.most_common()), chain(BOX_COLORS, repeat("#ffffff")), strict=False))


def _read_detections(path: Path, ids: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Image → its detections, best score first."""
    by_image: dict[int, list[dict[str, Any]]] = {image: [] for image in ids}
    for one in sorted(orjson.loads(path.read_bytes()), key=lambda one: -one["score"]):
        if one["image_id"] in ids:
            by_image[one["image_id"]].append(one)
    return by_image


def _photo(
    place: int, detections: Mapping[str, Mapping[int, list[dict[str, Any]]]], test_set: DetectionDataset
) -> Photo:
    image = Image.fromarray(test_set.load_image(place))
    scale = min(1.0, _SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    encoded = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(encoded, "WEBP", quality=_QUALITY)
    uri = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"

    def mark(kind: Kind, box: np.ndarray, label: int, score: str = "") -> MarkedBox:
        return _marked(kind, scale * box, test_set.class_names[label - 1], score, width, height)

    target = test_set.target(place)
    single = ~target["iscrowd"].numpy()
    objects = list(zip(target["boxes"].numpy()[single], target["labels"].numpy()[single], strict=True))
    panels = [Panel("ground truth", [mark("object", box, label) for box, label in objects])]
    for arm, by_image in detections.items():
        best = by_image[test_set.image_id(place)][: len(objects)]
        found = [_box_and_label(one, test_set) for one in best]
        hits = _objects_found(found, objects)
        boxes = [
            mark("wrong" if hit is None else "found", box, label, f" {one['score']:.2f}")
            for one, (box, label), hit in zip(best, found, hits, strict=True)
        ]
        boxes += [mark("missed", *one) for g, one in enumerate(objects) if g not in hits]
        panels.append(Panel(arm, boxes))
    return Photo(test_set.image_name(place), uri, width, height, panels)


def _box_and_label(detection: Mapping[str, Any], test_set: DetectionDataset) -> tuple[np.ndarray, int]:
    x, y, w, h = detection["bbox"]
    return np.array([x, y, x + w, y + h]), 1 + test_set.category_ids.index(detection["category_id"])


def _objects_found(
    found: Sequence[tuple[np.ndarray, int]], objects: Sequence[tuple[np.ndarray, int]]
) -> list[int | None]:
    """The object that each detection finds, None for none."""
    ours, theirs = (np.array([box for box, _ in boxes], np.float64).reshape(-1, 4) for boxes in (found, objects))
    overlaps = box_iou(torch.from_numpy(ours), torch.from_numpy(theirs)).tolist()
    hits: list[int | None] = []
    for (_, label), overlap in zip(found, overlaps, strict=True):
        free = [g for g, (_, other) in enumerate(objects) if other == label and g not in hits and overlap[g] >= _IOU]
        hits.append(max(free, key=overlap.__getitem__, default=None))
    return hits


def _marked(kind: Kind, box: np.ndarray, label: str, score: str, width: int, height: int) -> MarkedBox:
    x1, y1, x2, y2 = (round(float(value), 1) for value in box)
    letter = _LETTER * height
    leftward = x1 + x2 > width
    caption_x = min(x2, width - 2.0) if leftward else max(x1, 2.0)
    caption_y = y1 - 0.25 * letter if y1 > 1.3 * letter else max(y1, 0.0) + 1.05 * letter
    extent, caption_at = (round(x2 - x1, 1), round(y2 - y1, 1)), (round(caption_x, 1), round(caption_y, 1))
    return MarkedBox(kind, label, f"{label}{score}", x1, y1, *extent, *caption_at, leftward)
