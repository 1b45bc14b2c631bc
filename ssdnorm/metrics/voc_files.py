"""Read and write the VOC devkit's result files, ``comp4_det_test_<class>.txt``, with one detection per line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ssdnorm.coco_format import detection_table, ground_truth_table
from ssdnorm.files import write_text
from ssdnorm.messages import shown, unknown_name
from ssdnorm.tables import DetectionTable, GroundTruth

PREFIX = "comp4_det_test_"


def write_voc_detections(
    folder: str | Path,
    ground_truth: Mapping[str, Any] | GroundTruth,
    detections: Sequence[Mapping[str, Any]] | Mapping[str, Any] | DetectionTable,
    *,
    prefix: str = PREFIX,
) -> list[Path]:
    """Write one file per class, ``<image> <score> <xmin> <ymin> <xmax> <ymax>``, for the devkit or another tool.

    Images are named by the stem of their ``file_name`` (by their id where there is none). Pixels are the devkit's,
    1-based and inclusive: ``xmin = x + 1``, ``xmax = x + w``. Scores and pixels are written so that they read back as
    the same float64: rounded to three digits, as several published scripts do, scores would tie.

    Raises:
        ValueError: two images share a stem, a stem contains a blank, a class name cannot be a file name.
    """
    truth = ground_truth_table(ground_truth)
    found = detection_table(detections, truth)
    stems = list(_stems(truth))
    for name in truth.class_names:
        if PurePath(name).name != name:
            raise ValueError(f"class {name!r}: got a name with a path in it, allowed: a file name")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for label, name in enumerate(truth.class_names, start=1):
        mine = found.select(found.labels == label)
        x, y, w, h = mine.boxes.T
        columns = (mine.image, mine.scores, x + 1, y + 1, x + w, y + h)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        paths.append(folder / f"{prefix}{name}.txt")
        lines = [f"{stems[image]} " + " ".join(map(repr, numbers)) + "\n" for image, *numbers in rows]
        write_text(paths[-1], "".join(lines))
    return paths


def read_voc_detections(
    folder: str | Path, ground_truth: Mapping[str, Any] | GroundTruth, *, prefix: str = PREFIX
) -> DetectionTable:
    """Read a folder of ``<prefix><class>.txt`` as a table of detections.

    A class without a file has no detections; the order of the lines is kept, since it decides equal scores.

    Raises:
        ValueError: no such file in the folder, a file of an unknown class, an unknown image, a line that is not a name
            and five numbers, an inverted box. Each with file and line.
    """
    truth = ground_truth_table(ground_truth)
    folder = Path(folder)
    files = {path.stem.removeprefix(prefix): path for path in sorted(folder.glob(f"{prefix}*.txt"))}
    if not files:
        raise ValueError(f"{folder}: no file {prefix}<class>.txt in this folder")
    unknown = sorted(set(files) - set(truth.class_names))
    if unknown:
        raise ValueError(f"{files[unknown[0]]}: {unknown_name('class', unknown[0], truth.class_names)}")
    stems = _stems(truth)
    rows: list[tuple[int, int, float, list[float]]] = []
    for label, name in enumerate(truth.class_names, start=1):
        if name not in files:
            continue
        lines = files[name].read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip():
                place, score, box = _parse(line, stems, f"{files[name]}, line {number}")
                rows.append((place, label, score, box))
    image, labels, scores, boxes = zip(*rows, strict=True) if rows else ((),) * 4
    return DetectionTable(
        image=np.array(image, np.int64),
        labels=np.array(labels, np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        scores=np.array(scores, np.float64),
    )


def _parse(line: str, stems: dict[str, int], where: str) -> tuple[int, float, list[float]]:
    stem, *words = line.split()
    try:
        score, xmin, ymin, xmax, ymax = map(float, words)
    except ValueError:
        raise ValueError(f"{where}: got {shown(line.strip())}, allowed: image score xmin ymin xmax ymax") from None
    if stem not in stems:
        raise ValueError(f"{where}: image {shown(stem)} is not in the ground truth, which has {len(stems)} images")
    if not np.isfinite([score, xmin, ymin, xmax, ymax]).all():
        raise ValueError(f"{where}: got {shown(line.strip())}, allowed: finite numbers")
    box = [xmin - 1, ymin - 1, xmax - (xmin - 1), ymax - (ymin - 1)]
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f"{where}: got {shown(line.strip())}, allowed: xmin <= xmax and ymin <= ymax")
    return stems[stem], score, box


def _stems(truth: GroundTruth) -> dict[str, int]:
    """Stem of the file name → place of the image; the id stands in for a name that is not known."""
    stems: dict[str, int] = {}
    for place, image_id in enumerate(truth.image_ids.tolist()):
        name = truth.names[place]
        stem = PurePath(name).stem if name else str(image_id)
        if stem in stems or len(stem.split()) != 1:
            wrong = "is the stem of two images" if stem in stems else "contains a blank"
            raise ValueError(f"images: {stem!r} {wrong}; the devkit's files need one name per image")
        stems[stem] = place
    return stems
