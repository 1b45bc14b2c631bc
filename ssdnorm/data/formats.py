"""Find out in which format a folder holds its data, and which splits it has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdnorm.coco_format.files import parse_json
from ssdnorm.data.yolo import list_yolo_images, read_yolo_file, yolo_file

_SPLITS = {"train": ("train",), "validation": ("valid", "val"), "test": ("test",)}  # words in names
_VOC_FOLDERS = ("Annotations", "JPEGImages", "ImageSets/Main")
_EXPECTED = (
    "expected a VOC year (Annotations, JPEGImages, ImageSets/Main), COCO instances files (.json) with their images, "
    "or data.yaml with images and labels (YOLO)"
)


@dataclass(frozen=True)
class FoundData:
    """What lies in a folder.

    Attributes:
        format: voc, coco or yolo.
        splits: ``train``, ``validation``, ``test`` where they exist → keys of ``data.<split>`` of a config.
    """

    format: str
    splits: dict[str, dict[str, Any]]


def find_data(place: str | os.PathLike[str]) -> FoundData:
    """Recognise VOC, COCO and YOLO data by their files.

    Args:
        place: a folder; for YOLO also ``data.yaml``, for COCO also one instances file, whose images are all there is.

    Raises:
        FileNotFoundError: nothing there, or no images to a file. ValueError: none of the three formats.

    A VOC folder may hold the year one level below. Of its lists ``trainval`` counts only where there is no ``val``.
    A split named ``valid`` or ``val`` is validation. A single split, whatever its name, is ``train``.
    """
    path = Path(place)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder or file")
    for find in (_find_yolo, _find_voc, _find_coco):
        if found := find(path):
            return found
    near = "; Annotations are there, but no ImageSets/Main" if (path / "Annotations").is_dir() else ""
    raise ValueError(f"{path}: neither VOC, COCO nor YOLO data{near}; {_EXPECTED}")


def _find_yolo(path: Path) -> FoundData | None:
    if path.is_file() and path.suffix not in (".yaml", ".yml"):
        return None
    try:
        file = yolo_file(path)
    except FileNotFoundError:
        return None
    content, splits = read_yolo_file(file), {}
    for name, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        try:
            list_yolo_images(content, file, split)
        except FileNotFoundError:
            if name == "train":
                raise
        else:
            splits[name] = {"format": "yolo", "root": str(path), "split": split}
    return FoundData("yolo", splits)


def _find_voc(path: Path) -> FoundData | None:
    folders = (path, *sorted(path.glob("*/")))
    root = next((folder for folder in folders if all((folder / part).is_dir() for part in _VOC_FOLDERS)), None)
    if root is None:
        return None
    lists = {file.stem for file in (root / "ImageSets" / "Main").glob("*.txt")}
    names = {"validation": lists & {"val", "valid", "validation"}, "test": lists & {"test"}}
    names["train"] = lists & ({"train"} if names["validation"] else {"trainval"}) or lists & {"train", "trainval"}
    if not names["train"] and len(lists) == 1:
        names = {"train": lists}
    if not names["train"]:
        raise ValueError(f"{root}: ImageSets/Main: expected a list train.txt or trainval.txt; got {sorted(lists)}")
    return FoundData("voc", {
        name: {"format": "voc", "root": str(root), "split": sorted(names[name])[0]}
        for name in _SPLITS if names.get(name)
    })  # fmt: skip


def _find_coco(path: Path) -> FoundData | None:
    files = [path] if path.suffix == ".json" else sorted([*path.glob("*.json"), *path.glob("*/*.json")])
    found: dict[str, list[tuple[Path, str]]] = {}
    for file in files:
        if (image := _first_image(file)) is not None:
            words = f"{file.parent.name if file.name.startswith('_') else ''}{file.stem}".lower()
            name = next((name for name, keys in _SPLITS.items() if any(key in words for key in keys)), "train")
            found.setdefault(name, []).append((file, image))
    if not found:
        return None
    if len(found) == 1:
        found = {"train": next(iter(found.values()))}
    for name, several in found.items():
        if len(several) > 1:
            listed = ", ".join(str(file) for file, _ in several)
            raise ValueError(f"{path}: {name}: {len(several)} instances files: {listed}; give one")
    sources = {}
    for name in (name for name in _SPLITS if name in found):
        ((file, image),) = found[name]
        sources[name] = {"format": "coco", "annotations": str(file), "images": str(_folder_of(image, file))}
    return FoundData("coco", sources)


def _first_image(file: Path) -> str | None:
    """The first file name of an instances file, empty if it has no images; None for JSON without images with boxes."""
    try:
        content = parse_json(file.read_bytes(), file)
        images, annotations, _ = (content[key] for key in ("images", "annotations", "categories"))
    except (ValueError, TypeError, KeyError):
        return None
    if not isinstance(annotations, list) or not isinstance(images, list):
        return None
    if "keypoints" in str(annotations[:1]) or "bbox" not in str(annotations[:1]):  # as in captions
        return None
    return str(images[0].get("file_name", "")) if images and isinstance(images[0], dict) else ""


def _folder_of(name: str, file: Path) -> Path:
    """The folder with an image of an instances file."""
    base = file.parent
    around = [base, base / "images", base.parent, base.parent / "images"]
    around += sorted(folder for place in (base, base.parent, base.parent / "images") if place.is_dir()
                     for folder in place.iterdir() if folder.is_dir())  # fmt: skip
    words = file.stem.removeprefix("instances_")
    around.sort(key=lambda folder: folder.name != words)  # instances_train2017.json -> train2017, before the others
    for folder in around:
        if name and (folder / name).is_file():
            return folder
    raise FileNotFoundError(f"{file}: no {name or 'image'} found near; expected its images in {base} or {base.parent}")
