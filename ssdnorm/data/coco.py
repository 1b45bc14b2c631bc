"""Images with boxes from a COCO instances file: category ids with holes, crowd regions, bad annotations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssdnorm.coco_format import load_ground_truth
from ssdnorm.data.annotation_checks import Problems, usable_boxes, usable_image
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.messages import shown, unknown_name
from ssdnorm.tables import GroundTruth, xywh_to_xyxy


class CocoDataset(DetectionDataset):
    """Images and boxes of a COCO instances file.

    Category ids may have holes: labels are 1 … C in the order of ``categories`` in the file, or of ``class_names``.
    Crowd regions are ground truth for evaluation and never trained on. Boxes are xywh in 0-based pixel edges, float64.

    Args:
        annotations: the JSON file.
        images: the folder with its images.
        class_names: a subset or another order of the file's categories; annotations of the others are left out and
            counted. Default: all categories.
        on_bad_annotation: ``drop`` leaves out annotations without a usable box and images that are missing (and, where
            checked, truncated), with a message each; ``error`` refuses the file.
        check_images: read every image's header and end while loading (about 50 µs each). Otherwise only the presence of
            the images is checked, the sizes in the file are believed, and a truncated image fails when it is loaded.

    Raises:
        FileNotFoundError: no such file or folder. ValueError: anything else that cannot be used.
    """

    def __init__(
        self,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        on_bad_annotation: str = "drop",
        check_images: bool = False,
    ) -> None:
        path, folder = Path(annotations), Path(images)
        problems = Problems(on_bad_annotation, where=path.name)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of images")
        bad: list[tuple[str, str]] = []
        truth = load_ground_truth(path, on_bad=lambda kind, message: bad.append((kind, message)))
        for kind, message in bad:
            problems.drop(kind, f"{path.name}: {message}")
        for ids, key in ((truth.image_ids, "images"), (truth.category_ids, "categories")):
            if ids.dtype == object:
                raise ValueError(f"{path}: {key}: id: got {shown(next(iter(ids)))}, allowed: whole numbers")
        truth = choose_classes(truth, class_names, problems)
        truth = _usable_images(truth, folder, check_images, problems)
        truth = _usable_boxes(truth, problems)
        problems.report()
        paths = [str(folder / name) for name in truth.names.tolist()]
        super().__init__(truth, paths, problems=problems)


def choose_classes(truth: GroundTruth, class_names: Sequence[str] | None, problems: Problems) -> GroundTruth:
    """The objects of these classes, with labels in their order; the others are counted.

    Raises:
        ValueError: a name that the data have not, one given twice, or none.
    """
    place_of = {name: k for k, name in enumerate(truth.class_names)}
    names = tuple(truth.class_names if class_names is None else class_names)
    for name in names:
        if name not in place_of:
            raise ValueError(f"class_names: {unknown_name(f'category of {problems.where}', name, place_of)}")
    if not names or isinstance(class_names, str) or len(set(names)) < len(names):
        got = class_names or names
        raise ValueError(f"class_names: expected different names of categories of {problems.where}; got {shown(got)}")
    places = np.array([place_of[name] for name in names])
    new_label = np.zeros(truth.num_classes + 1, np.int64)
    new_label[places + 1] = np.arange(1, len(names) + 1)
    labels = new_label[truth.labels]
    problems.count("left out", int((labels == 0).sum()))
    truth = replace(truth, class_names=names, category_ids=truth.category_ids[places], labels=labels)
    return truth.select_objects(labels > 0)


def _usable_images(truth: GroundTruth, folder: Path, check_images: bool, problems: Problems) -> GroundTruth:
    present = {entry.name for entry in os.scandir(folder)}
    sizes, usable = truth.sizes.copy(), []
    for i, (image_id, (height, width)) in enumerate(zip(truth.image_ids.tolist(), sizes.tolist(), strict=True)):
        name = truth.names[i]
        where = f"{problems.where}: image {image_id}"
        if not name:
            raise ValueError(f"{where}: has no file_name")
        if name not in present and not ("/" in name and (folder / name).is_file()):
            problems.drop("missing", f"{where}: no {name} in {folder}")
            continue
        if check_images or not (height and width):
            size = usable_image(folder / name, problems, where=where, annotated=(height, width))
            if size is None:
                continue
            sizes[i] = size
        usable.append(i)
    if not usable:
        first = next(iter(problems.messages), "the file lists none")
        raise ValueError(f"{problems.where}: no usable image in {folder}. First problem: {first}")
    return replace(truth, sizes=sizes).select_images(np.array(usable))


def _usable_boxes(truth: GroundTruth, problems: Problems) -> GroundTruth:
    image = truth.image

    def describe(row: int) -> str:
        what = f"annotation {truth.ids[row]} of {truth.names[image[row]]} ({truth.class_names[truth.labels[row] - 1]})"
        return f"{problems.where}: {what}: bbox {truth.boxes[row].tolist()}"

    return truth.select_objects(usable_boxes(xywh_to_xyxy(truth.boxes), truth.sizes[image], problems, describe))
