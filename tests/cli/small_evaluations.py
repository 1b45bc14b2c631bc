"""Inputs small enough for a test: photos, a VOC folder, a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ssdnorm import ssd300_vgg16
from ssdnorm.models.checkpoint import save_checkpoint
from tests.small_training import TINY

SHAPES = ("circle", "cross", "square", "star", "triangle")


def write_photos(folder: Path, names: list[str], size: tuple[int, int] = (120, 90)) -> None:
    """Grey pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, name in enumerate(names):
        Image.fromarray(np.full((size[1], size[0], 3), 60 + 20 * place, np.uint8)).save(folder / name)


def write_json(path: Path, content: Any) -> Path:
    """JSON as Python writes it."""
    path.write_text(json.dumps(content))
    return path


def write_voc_folder(root: Path, objects: dict[str, list[tuple[str, int, tuple[int, int, int, int]]]]) -> Path:
    """A VOC year with one split, ``test``; objects are (class, difficult, devkit corners)."""
    write_photos(root / "JPEGImages", [f"{name}.jpg" for name in objects])
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "ImageSets/Main/test.txt").write_text("\n".join(objects))
    for name, rows in objects.items():
        items = "".join(
            f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>"
            f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for label, difficult, (x1, y1, x2, y2) in rows
        )
        size = "<size><width>120</width><height>90</height><depth>3</depth></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{items}</annotation>")
    return root


def write_run(folder: Path, *, class_names: tuple[str, ...] = SHAPES, score_threshold: float = 0.01) -> Path:
    """A run folder with an untrained detector."""
    model = ssd300_vgg16(1 + len(class_names), width=0.02, seed=0)
    post_process = {"score_threshold": score_threshold, "nms_threshold": 0.45, "top_k": 400, "max_detections": 20}
    weights = folder / "checkpoints" / "model.safetensors"
    save_checkpoint(weights, model, class_names=class_names, post_process=post_process)
    (folder / "config.yaml").write_text(yaml.safe_dump({**TINY, "post_process": post_process}))
    return folder
