"""This file is about the shape every data set has: images by place, and their annotations in flat arrays."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ssdnorm.data.bad_annotations import Problems, clip_boxes
from ssdnorm.data.images import EncodedImage
from ssdnorm.data.shared import SharesArrays
from ssdnorm.structures import Target


class PackedStrings(SharesArrays):
    """A list of strings in two flat arrays, so that worker processes share it.

    Reading an element of a Python list writes its reference count, which copies the memory page in every forked
    worker; reading an array writes nothing.

    Example:
        >>> names = PackedStrings(["a.jpg", "ü b.jpg"])
        >>> len(names), names[1]
        (2, 'ü b.jpg')
    """

    def __init__(self, strings: Sequence[str]) -> None:
        encoded = [string.encode() for string in strings]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is no place in a list of {len(self)}")
        return self._bytes[self._ends[index] : self._ends[index + 1]].tobytes().decode()


@dataclass(frozen=True)
class AnnotationTable(SharesArrays):
    """All annotations of a data set; the objects of image i are the rows ``starts[i]`` to ``starts[i + 1]``.

    Shape, for N images and M objects:
        image_ids ``(N,)`` int64; sizes ``(N, 2)`` int64 height and width in pixels; names, paths: N strings;
        starts ``(N + 1,)`` int64; annotation_ids ``(M,)`` int64; boxes_xywh ``(M, 4)`` float64 pixels, as in the file;
        labels ``(M,)`` int64, 1 or more; area ``(M,)`` float64; difficult, iscrowd ``(M,)`` bool.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    names: PackedStrings
    paths: PackedStrings
    starts: np.ndarray
    annotation_ids: np.ndarray
    boxes_xywh: np.ndarray
    labels: np.ndarray
    area: np.ndarray
    difficult: np.ndarray
    iscrowd: np.ndarray

    def select(self, places: np.ndarray) -> AnnotationTable:
        """The table of some of the images, in the order given."""
        counts = np.diff(self.starts)[places]
        starts = np.concatenate([[0], np.cumsum(counts)])
        rows = np.repeat(self.starts[places] - starts[:-1], counts) + np.arange(starts[-1])
        return AnnotationTable(
            image_ids=self.image_ids[places],
            sizes=self.sizes[places],
            names=PackedStrings([self.names[place] for place in places]),
            paths=PackedStrings([self.paths[place] for place in places]),
            starts=starts,
            annotation_ids=self.annotation_ids[rows],
            boxes_xywh=self.boxes_xywh[rows],
            labels=self.labels[rows],
            area=self.area[rows],
            difficult=self.difficult[rows],
            iscrowd=self.iscrowd[rows],
        )


class DetectionDataset:
    """Images with boxes. Subclasses fill an ``AnnotationTable`` and say where the pixels come from.

    Evaluation sees every box as the file has it (``target``, ``ground_truth``); training sees boxes cut to the image,
    never crowd regions, and difficult objects only if ``train_on_difficult`` (``training_boxes``). Bad annotations are
    in none of them; ``problems`` and ``summary`` tell which they were.

    The annotations live in a dozen numpy arrays, not in lists of objects: a set of 860,000 boxes takes 60 MB once,
    and loader workers read the same pages instead of copying them, forked or spawned.

    Args:
        table: the annotations.
        class_names: without background; label i is ``class_names[i - 1]``.
        category_ids: the ids the file uses; label i is ``category_ids[i - 1]``.
        train_on_difficult: whether ``training_boxes`` holds VOC's difficult objects.
        problems: what was dropped or noted while reading.
    """

    def __init__(
        self,
        table: AnnotationTable,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        *,
        train_on_difficult: bool = True,
        problems: Problems | None = None,
    ) -> None:
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.train_on_difficult = train_on_difficult
        self.problems = problems.messages if problems else []
        self.summary = problems.summary() if problems else ""
        self._table = table

    def __len__(self) -> int:
        return len(self._table.image_ids)

    def image_id(self, index: int) -> int:
        """The id of an image in ``ground_truth`` and in detections files."""
        return int(self._table.image_ids[index])

    def image_name(self, index: int) -> str:
        """The image's file name, for messages and results."""
        return self._table.names[index]

    def image_path(self, index: int) -> str:
        """The image's file; empty for drawn images."""
        return self._table.paths[index]

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, as annotated or, where checked, as the file's header has them."""
        height, width = self._table.sizes[index]
        return int(height), int(width)

    def open_image(self, index: int) -> EncodedImage | np.ndarray:
        """The image as cheaply as it can be had: encoded bytes for files, pixels ``(H, W, 3)`` for drawn images."""
        return EncodedImage.read(self._table.paths[index])

    def load_image(self, index: int) -> np.ndarray:
        """The pixels ``(H, W, 3)`` uint8 RGB; see ``EncodedImage`` for grey, alpha, 16 bits and EXIF orientation.

        Raises:
            FileNotFoundError, ValueError: naming the file, when it is gone, truncated or not an image.
        """
        image = self.open_image(index)
        return image.decode() if isinstance(image, EncodedImage) else image

    def target(self, index: int) -> Target:
        """Everything that is annotated in an image, for evaluation."""
        rows, table = self._rows(index), self._table
        return Target(
            boxes=torch.from_numpy(_xyxy(table.boxes_xywh[rows]).astype(np.float32)),
            labels=torch.from_numpy(table.labels[rows].copy()),
            difficult=torch.from_numpy(table.difficult[rows].copy()),
            iscrowd=torch.from_numpy(table.iscrowd[rows].copy()),
            area=torch.from_numpy(table.area[rows].astype(np.float32)),
            image_id=self.image_id(index),
        )

    def training_boxes(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What to learn from in an image, cut to it.

        Shape:
            boxes ``(G, 4)`` float32 xyxy in pixels; labels ``(G,)`` int64. G may be 0.
        """
        rows, table = self._rows(index), self._table
        keep = ~table.iscrowd[rows]
        if not self.train_on_difficult:
            keep &= ~table.difficult[rows]
        boxes = _xyxy(table.boxes_xywh[rows][keep])
        boxes = clip_boxes(boxes, np.broadcast_to(table.sizes[index], (len(boxes), 2)))
        return boxes.astype(np.float32), table.labels[rows][keep]

    def ground_truth(self) -> dict[str, list[dict[str, Any]]]:
        """The annotations as a COCO dictionary: ``images``, ``annotations``, ``categories``.

        ``bbox`` is xywh in pixels, float64, exactly as a COCO file has it; ``difficult`` is 0 or 1. Only images and
        annotations that this data set holds, only its categories, with the file's own ids.
        """
        table = self._table
        images = [
            {"id": image_id, "file_name": table.names[i], "height": height, "width": width}
            for i, (image_id, (height, width)) in enumerate(
                zip(table.image_ids.tolist(), table.sizes.tolist(), strict=True)
            )
        ]
        columns = (
            table.annotation_ids,
            np.repeat(table.image_ids, np.diff(table.starts)),
            np.array(self.category_ids, np.int64)[table.labels - 1],
            table.boxes_xywh,
            table.area,
            table.iscrowd.astype(np.int64),
            table.difficult.astype(np.int64),
        )
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "difficult")
        annotations = [
            dict(zip(keys, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)
        ]
        categories = [
            {"id": category_id, "name": name}
            for category_id, name in zip(self.category_ids, self.class_names, strict=True)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _rows(self, index: int) -> slice:
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is no place in a data set of {len(self)} images")
        return slice(self._table.starts[index], self._table.starts[index + 1])


def subset(dataset: DetectionDataset, indices: Sequence[int]) -> DetectionDataset:
    """The same data set with some of its images, in the order given; image ids stay.

    Raises:
        ValueError: for a place outside the data set or given twice.
    """
    places = np.asarray(indices, dtype=np.int64).reshape(-1)
    outside = places[(places < 0) | (places >= len(dataset))]
    if len(outside):
        raise ValueError(f"subset: {int(outside[0])} is no place in a data set of {len(dataset)} images")
    if len(np.unique(places)) < len(places):
        raise ValueError("subset: an image is asked for twice; image ids must stay unique for evaluation")
    part = copy.copy(dataset)
    part._table = dataset._table.select(places)
    return part


def _xyxy(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
