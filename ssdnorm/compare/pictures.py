"""The report's pictures: the same test images with each arm's detections side by side."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ssdnorm.coco_format import load_detections
from ssdnorm.compare.results import Results, Run
from ssdnorm.compare.run_folders import first_with
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.metrics.worst import Outcomes, match_outcomes
from ssdnorm.plots.colors import BOX_COLORS
from ssdnorm.tables import DetectionTable, GroundTruth, xywh_to_xyxy

_SIDE = 480  # pixels of the longest side
_QUALITY = 70  # of WebP
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
    found = {arm.name: first_with("detections.json", arm.finished_runs, root) for arm in results.arms}
    return {arm: run for arm, run in found.items() if run is not None}


def photos_of(shown: Mapping[str, Run], root: Path, test_set: DetectionDataset, *, num_images: int = 5) -> list[Photo]:
    """Evenly spaced test images with the detections of each arm; empty if there are none.

    Of every arm the best-scored detections are drawn, as many as the image has objects, so that arms whose scores have
    another scale are treated alike. A detection finds an object of its class with an IoU of 0.5 or more that no
    better-scored one has found.
    """
    if not shown:
        return []
    spaced = np.linspace(0, len(test_set) - 1, min(num_images, len(test_set)))
    places = np.unique(spaced.round().astype(int))
    truth = test_set.ground_truth.select_images(places)
    truth = truth.select_objects(~truth.iscrowd)
    arms = {}
    for arm, run in shown.items():
        found = load_detections(root / run.folder / "detections.json", test_set.ground_truth)
        arms[arm] = match_outcomes(truth, _best_of(found, places, np.diff(truth.starts)))
    return [_photo(test_set, place, i, truth, arms) for i, place in enumerate(places.tolist())]


def class_colors(photos: Sequence[Photo]) -> dict[str, str]:
    """Class → colour of its boxes, the most frequent class first; white where the colours run out."""
    counts = Counter(box.label for photo in photos for panel in photo.panels for box in panel.boxes)
    return dict(zip((name for name, _ in counts.most_common()), chain(BOX_COLORS, repeat("#ffffff")), strict=False))


def _best_of(found: DetectionTable, places: np.ndarray, numbers: np.ndarray) -> DetectionTable:
    """The best detections of the images at some places, so many of each; images are then numbered from 0."""
    rows = [np.flatnonzero(found.image == place) for place in places]
    rows = [mine[np.argsort(-found.scores[mine], kind="stable")][:n] for mine, n in zip(rows, numbers, strict=True)]
    image = np.repeat(np.arange(len(places)), [len(mine) for mine in rows])
    return replace(found.select(np.concatenate(rows)), image=image)


def _photo(test_set: DetectionDataset, place: int, i: int, truth: GroundTruth, arms: Mapping[str, Outcomes]) -> Photo:
    image = Image.fromarray(test_set.load_image(place))
    scale = min(1.0, _SIDE / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    encoded = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(encoded, "WEBP", quality=_QUALITY)
    uri = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"

    def mark(kind: Kind, table: GroundTruth | DetectionTable, row: int, score: str = "") -> MarkedBox:
        (box,) = scale * xywh_to_xyxy(table.boxes[row : row + 1])
        return _marked(kind, box, truth.class_names[table.labels[row] - 1], score, width, height)

    objects = range(truth.starts[i], truth.starts[i + 1])
    panels = [Panel("ground truth", [mark("object", truth, row) for row in objects])]
    for arm, outcomes in arms.items():
        found = outcomes.found
        rows = np.flatnonzero(found.image == i)
        rows = rows[np.argsort(-found.scores[rows], kind="stable")].tolist()
        boxes = [
            mark("found" if outcomes.hit[row] else "wrong", found, row, f" {found.scores[row]:.2f}") for row in rows
        ]
        boxes += [mark("missed", truth, row) for row in objects if outcomes.missed[row]]
        panels.append(Panel(arm, boxes))
    return Photo(test_set.image_name(place), uri, width, height, panels)


def _marked(kind: Kind, box: np.ndarray, label: str, score: str, width: int, height: int) -> MarkedBox:
    x1, y1, x2, y2 = (round(float(value), 1) for value in box)
    letter = _LETTER * height
    leftward = x1 + x2 > width
    caption_x = min(x2, width - 2.0) if leftward else max(x1, 2.0)
    caption_y = y1 - 0.25 * letter if y1 > 1.3 * letter else max(y1, 0.0) + 1.05 * letter
    extent, caption_at = (round(x2 - x1, 1), round(y2 - y1, 1)), (round(caption_x, 1), round(caption_y, 1))
    return MarkedBox(kind, label, f"{label}{score}", x1, y1, *extent, *caption_at, leftward)
