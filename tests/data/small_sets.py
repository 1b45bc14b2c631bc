"""Pictures and small data sets on disk, for the data tests."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from ssdnorm.data import EncodedImage
from ssdnorm.structures import Batch


def smooth_photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture without detail finer than a few pixels, different everywhere: RGB (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(picture: np.ndarray | Image.Image, kind: str = "JPEG", **options: object) -> EncodedImage:
    """A picture as a file in memory."""
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, kind, **options)
    return EncodedImage(file.getvalue(), f"photo.{kind.lower()}")


def same_batches(mine: Iterable[Batch], theirs: Iterable[Batch]) -> bool:
    """Whether batches are equal in every bit, in the same order."""
    return all(
        torch.equal(getattr(ours, field.name), getattr(other, field.name))
        for ours, other in zip(mine, theirs, strict=True)
        for field in fields(Batch)
    )


def write_image(path: Path, image: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def voc_object(name: str, xmin: object, ymin: object, xmax: object, ymax: object, difficult: int = 0) -> str:
    box = f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult>{box}</object>"


def voc_xml(*objects: str, width: int = 40, height: int = 30) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


class VocFolder:
    """A VOC year under construction; images are 40 × 30."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / part).mkdir(parents=True)

    def add(self, name: str, *objects: str, suffix: str = ".jpg", split: str = "train", **size: int) -> Path:
        (self.root / "Annotations" / f"{name}.xml").write_text(voc_xml(*objects, **size), encoding="utf-8")
        image = self.root / "JPEGImages" / f"{name}{suffix}"
        write_image(image, smooth_photo(30, 40))
        with open(self.root / "ImageSets" / "Main" / f"{split}.txt", "a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        return image


class CocoFolder:
    """A COCO data set under construction; images are 40 × 30, categories cat (3) and dog (7)."""

    def __init__(self, root: Path) -> None:
        self.images = root / "images"
        self.file = root / "instances.json"
        self.images.mkdir(parents=True)
        self.content: dict = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        }

    def add_image(self, image_id: int, file_name: str, *, on_disk: bool = True) -> None:
        self.content["images"].append({"id": image_id, "file_name": file_name, "width": 40, "height": 30})
        if on_disk:
            write_image(self.images / file_name, smooth_photo(30, 40, image_id))

    def annotate(self, image_id: int, category_id: int, bbox: object, **more: object) -> None:
        item = {"id": len(self.content["annotations"]) + 100, "image_id": image_id, "category_id": category_id}
        self.content["annotations"].append({**item, "bbox": bbox, "iscrowd": 0, "area": 5.0, **more})

    def save(self) -> tuple[Path, Path]:
        self.file.write_text(json.dumps(self.content))
        return self.file, self.images


class YoloFolder:
    """A data set in Roboflow's YOLO layout under construction; images are 40 × 30, classes cat (0) and dog (1)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.file = root / "data.yaml"
        self.file.write_text("train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnames: [cat, dog]\n")

    def add(self, name: str, *lines: str, split: str = "train", seed: int = 0) -> None:
        for part in ("images", "labels"):
            (self.root / split / part).mkdir(parents=True, exist_ok=True)
        write_image(self.root / split / "images" / f"{name}.jpg", smooth_photo(30, 40, seed))
        (self.root / split / "labels" / f"{name}.txt").write_text("\n".join(lines))
