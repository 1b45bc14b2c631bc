"""Images with boxes in YOLO format: a ``data.yaml``, and a text file of boxes per image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssdnorm.coco_format.columns import is_one_line
from ssdnorm.data.annotated_images import AnnotatedBox, AnnotatedImage, table_of_images
from ssdnorm.data.annotation_checks import Problems, usable_image
from ssdnorm.data.coco import choose_classes
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.images import IMAGE_SUFFIXES
from ssdnorm.messages import shown, unknown_name
from ssdnorm.yaml_files import read_yaml

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_ROUNDING = 1e-3  # of the image: a box that ends at 1.0005 is one that was rounded


class YoloDataset(DetectionDataset):
    """One split of a data set in YOLO format, as Ultralytics, Roboflow and labelling tools write it.

    ``data.yaml`` names the classes (``names``: a list, or numbers with names) and where the images of ``train``,
    ``val`` (or ``valid``) and ``test`` are: a folder, a text file of paths, or a list of these, relative to ``path`` or
    to ``data.yaml``. The boxes of ``…/images/a.jpg`` are in ``…/labels/a.txt``: class number, centre and size in [0, 1]
    per line; a longer line is a polygon, whose bounds are taken. An image without a file, or with an empty one, has no
    objects. Where a path does not exist, the split's usual places beside ``data.yaml`` are tried, since Roboflow
    writes ``../train/images`` for ``train/images``.

    Args:
        root: ``data.yaml``, or the folder with it.
        split: ``train``, ``val`` or ``test``.
        class_names: a subset or another order of the file's classes. Default: all, in the file's order.
        on_bad_annotation: as of ``VocDataset``. The images' sizes are always read, since boxes are shares of them.

    Image ids are 1-based places in the sorted list of images.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: anything else that cannot be used.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        class_names: Sequence[str] | None = None,
        on_bad_annotation: str = "drop",
    ) -> None:
        file = yolo_file(root)
        content = read_yolo_file(file)
        names = yolo_class_names(content, file)
        listed = list_yolo_images(content, file, split)
        problems = Problems(on_bad_annotation, where=f"{file.parent.name or file} {split}")
        images: list[AnnotatedImage] = []
        for number, path in enumerate(listed, 1):
            if (size := usable_image(path, problems)) is not None:
                images.append(AnnotatedImage(number, path, size, _read_labels(path, size, names, problems)))
        truth = table_of_images(images, names, problems)
        truth = choose_classes(truth, class_names, problems)
        problems.report()
        super().__init__(truth, [str(image.path) for image in images], problems=problems)


def yolo_file(root: str | os.PathLike[str]) -> Path:
    """The ``data.yaml`` of a folder, or the only YAML file with classes in it; a file is returned as it is."""
    path = Path(root)
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder or data.yaml")
    found = [file for suffix in ("yaml", "yml") for file in sorted(path.glob(f"*.{suffix}"))]
    for file in sorted(found, key=lambda file: file.stem != "data"):
        if "names" in read_yolo_file(file):
            return file
    raise FileNotFoundError(f"{path}: has no data.yaml with the names of the classes")


def read_yolo_file(path: Path) -> Mapping[str, Any]:
    """The content of a YAML file; empty where it is no mapping."""
    content = read_yaml(path)
    return content if isinstance(content, Mapping) else {}


def yolo_class_names(content: Mapping[str, Any], file: Path) -> list[str]:
    """The names by class number: a list, or a mapping from 0, 1, …"""
    names = content.get("names")
    if isinstance(names, Mapping) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"{file}: names: expected a list of class names, or numbers from 0 with names; got {shown(names)}"
        )
    if "nc" in content and content["nc"] != len(names):
        raise ValueError(f"{file}: nc: says {shown(content['nc'])} classes, names has {len(names)}")
    for name in names:
        if not isinstance(name, str | int) or name == "" or not is_one_line(str(name)):
            raise ValueError(f"{file}: names: expected text; got {shown(name)}")
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"{file}: names: a class is named twice; got {shown(names)}")
    return names


def list_yolo_images(content: Mapping[str, Any], file: Path, split: str) -> list[Path]:
    """The images of a split, sorted.

    Raises:
        FileNotFoundError: the split is not in the file, or its images are not where they should be.
    """
    keys = SPLITS.get(split)
    if keys is None:
        raise ValueError(f"{file}: {unknown_name('split', split, SPLITS)}")
    value = next((content[key] for key in keys if content.get(key)), None)
    base = file.parent / str(content.get("path") or "")
    usual = [folder for key in keys for folder in (file.parent / key / "images", file.parent / "images" / key)]
    if value is None:
        value = [str(folder.resolve()) for folder in usual if folder.is_dir()][:1]
    images: list[Path] = []
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, str) or "\0" in entry:
            raise ValueError(f"{file}: {split}: expected a folder, a list of images, or several; got {shown(entry)}")
        tried = [base / entry, file.parent / entry, *usual]
        found = next(filter(os.path.exists, tried), None)  # Path.exists raises for a name that is too long
        if found is None:
            where = "below 'path' or beside the file"
            raise FileNotFoundError(f"{file}: {split}: {shown(entry)}: no such folder or list {where}")
        if found.is_file():
            lines = filter(None, map(str.strip, found.read_text(encoding="utf-8", errors="replace").splitlines()))
            images += [path if os.path.exists(path := found.parent / line) else base / line for line in lines]
        else:
            images += [path for path in found.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise FileNotFoundError(f"{file}: {split}: no images; expected them in {', '.join(map(str, usual))}")
    return sorted(set(images))


def _labels_of(image: Path) -> Path:
    """``…/images/x/a.jpg`` → ``…/labels/x/a.txt``: the last folder named images counts."""
    parts = list(image.with_suffix(".txt").parts)
    for last in [place for place, part in enumerate(parts[:-1]) if part == "images"][-1:]:
        parts[last] = "labels"
    return Path(*parts)


def _read_labels(image: Path, size: tuple[int, int], names: Sequence[str], problems: Problems) -> list[AnnotatedBox]:
    """The objects of every line that can be read."""
    file = _labels_of(image)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if os.path.isfile(file) else []
    except UnicodeDecodeError:
        problems.drop("annotations", f"{file}: not text in UTF-8")
        return []
    boxes = []
    for number, line in enumerate(lines, 1):
        words, where = line.split(), f"labels/{file.name}: line {number}"
        if not words:
            continue
        try:
            label, *values = map(float, words)
        except ValueError:
            problems.drop("object", f"{where}: expected a class number and numbers; got {line[:60]!r}")
            continue
        if len(values) < 4 or (len(values) > 5 and len(values) % 2):
            problems.drop("object", f"{where}: expected class, centre x, y, width, height; got {len(words)} numbers")
        elif label not in range(len(names)):
            problems.drop("class", f"{where}: class {words[0][:20]} is not in 0 … {len(names) - 1}")
        else:
            shares = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
            if len(values) <= 5:  # a fifth is a tracker's or a score
                x, y, w, h = values[:4]
                shares = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            boxes.append(AnnotatedBox(where, names[int(label)], _in_pixels(shares, size)))
    return boxes


def _in_pixels(shares: Sequence[float], size: tuple[int, int]) -> list[float]:
    """Corners in [0, 1] as pixels; one that rounding took out of the image is put on its edge."""
    inside = [min(max(share, 0.0), 1.0) for share in shares]
    shares = [near if abs(near - share) < _ROUNDING else share for near, share in zip(inside, shares, strict=True)]
    return [share * size[1 - axis % 2] for axis, share in enumerate(shares)]
