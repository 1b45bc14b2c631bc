"""The report's pictures: the same test images with each arm's detections side by side."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ssdnorm.coco_format import load_detections
from ssdnorm.compare.results import Results, Run
from ssdnorm.compare.run_folders import first_with
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.metrics.worst import Outcomes, match_outcomes
from ssdnorm.plots.boxes import DrawnBox, boxes_of_image, draw_scaled
from ssdnorm.plots.colors import HIT, MISSED, OBJECT, WRONG
from ssdnorm.tables import DetectionTable, GroundTruth, xywh_to_xyxy

_SIDE, _SMALL_SIDE = 480, 320  # pixels of the longest side
_MANY = 8  # arms whose pictures are small
_MOST_CAPTIONS = 10  # objects of an image; more captions would hide each other
_MARKS = 1.6  # size of lines and captions: a row holds up to four pictures
_QUALITY = 70  # of WebP


@dataclass(frozen=True)
class Panel:
    """A test image with the boxes of one arm, or of the ground truth, as a ``data:`` URI."""

    title: str
    counts: str
    uri: str


@dataclass(frozen=True)
class Photo:
    """One test image by panels, the ground truth first."""

    name: str
    panels: list[Panel]


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


def _best_of(found: DetectionTable, places: np.ndarray, numbers: np.ndarray) -> DetectionTable:
    """The best detections of the images at some places, so many of each; images are then numbered from 0."""
    rows = [np.flatnonzero(found.image == place) for place in places]
    rows = [mine[np.argsort(-found.scores[mine], kind="stable")][:n] for mine, n in zip(rows, numbers, strict=True)]
    image = np.repeat(np.arange(len(places)), [len(mine) for mine in rows])
    return replace(found.select(np.concatenate(rows)), image=image)


def _photo(test_set: DetectionDataset, place: int, i: int, truth: GroundTruth, arms: Mapping[str, Outcomes]) -> Photo:
    picture = Image.fromarray(test_set.load_image(place))
    scale = (_SIDE if len(arms) < _MANY else _SMALL_SIDE) / max(picture.size)
    rows = slice(truth.starts[i], truth.starts[i + 1])
    names = [truth.class_names[label - 1] for label in truth.labels[rows]]
    corners = xywh_to_xyxy(truth.boxes[rows]).tolist()
    objects = [DrawnBox(box, name, OBJECT) for box, name in zip(corners, names, strict=True)]

    def panel(title: str, counts: str, boxes: Sequence[DrawnBox]) -> Panel:
        if len(objects) > _MOST_CAPTIONS:
            boxes = [replace(box, caption="") for box in boxes]
        encoded = io.BytesIO()
        draw_scaled(picture, boxes, scale, mark_scale=_MARKS).save(encoded, "WEBP", quality=_QUALITY)
        return Panel(title, counts, f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}")

    panels = [panel("ground truth", f"{len(objects)} object{'s' * (len(objects) != 1)}", objects)]
    for arm, outcomes in arms.items():
        truth_boxes, detections = boxes_of_image(outcomes, i)
        missed = [box for box in truth_boxes if box.color == MISSED]
        colors = Counter(box.color for box in detections)
        counts = f"{colors[HIT]} found, {colors[WRONG]} wrong, {len(missed)} missed"
        panels.append(panel(arm, counts, missed + detections))
    return Photo(test_set.image_name(place), panels)
