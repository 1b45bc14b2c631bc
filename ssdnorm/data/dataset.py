"""Data sets of images with boxes: images by place, and their annotations in one table."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from ssdnorm.data.annotation_checks import Problems
from ssdnorm.data.images import EncodedImage
from ssdnorm.tables import TEXT, GroundTruth, xywh_to_xyxy


class DetectionDataset:
    """Images with boxes. Subclasses fill a ``GroundTruth`` table and say where the pixels come from.

    Evaluation sees every box as the file has it (``ground_truth``); training sees boxes cut to the image, never crowd
    regions, and difficult objects only if ``train_on_difficult`` (``training_boxes``). Neither sees bad annotations;
    ``problems`` and ``summary`` tell which they were.

    The annotations are flat numpy arrays, not lists of objects: 860,000 boxes take 60 MB once, and worker processes
    read the same pages instead of copying them, forked or spawned.

    Args:
        ground_truth: the annotations; label i is ``class_names[i - 1]``.
        paths: the files of the images, N; None for drawn images.
        train_on_difficult: whether ``training_boxes`` holds VOC's difficult objects.
        problems: what was dropped or noted while reading.
    """

    def __init__(
        self,
        ground_truth: GroundTruth,
        paths: Sequence[str] | np.ndarray | None,
        *,
        train_on_difficult: bool = True,
        problems: Problems | None = None,
    ) -> None:
        self.ground_truth = ground_truth
        self.paths = None if paths is None else np.array(paths, TEXT)  # shared like the annotations, where forked
        self.class_names = ground_truth.class_names
        self.category_ids: tuple[int, ...] = tuple(ground_truth.category_ids.tolist())
        self.train_on_difficult = train_on_difficult
        self.problems = problems.messages if problems else []
        self.summary = problems.summary() if problems else ""

    def __len__(self) -> int:
        return self.ground_truth.num_images

    def image_id(self, index: int) -> int:
        """The image's id in the ground truth and in detections files."""
        return int(self.ground_truth.image_ids[index])

    def image_name(self, index: int) -> str:
        """The image's file name, for messages and results."""
        return str(self.ground_truth.names[index])

    def image_path(self, index: int) -> str:
        """The image's file; empty for drawn images."""
        return "" if self.paths is None else str(self.paths[index])

    def image_size(self, index: int) -> tuple[int, int]:
        """Height and width in pixels, as annotated or, where checked, as the file's header has them."""
        height, width = self.ground_truth.sizes[index]
        return int(height), int(width)

    def open_image(self, index: int) -> EncodedImage | np.ndarray:
        """The image as cheaply as it can be had: encoded bytes for files, pixels ``(H, W, 3)`` for drawn images."""
        return EncodedImage.read(self.image_path(index))

    def load_image(self, index: int) -> np.ndarray:
        """The pixels ``(H, W, 3)`` uint8 RGB; see ``EncodedImage`` for grey, alpha, 16 bits and EXIF orientation.

        Raises:
            FileNotFoundError, ValueError: naming the file, when it is gone, truncated or not an image.
        """
        image = self.open_image(index)
        return image.decode() if isinstance(image, EncodedImage) else image

    def training_boxes(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """What to learn from in an image, cut to it.

        Shape:
            boxes ``(G, 4)`` float32 xyxy in pixels; labels ``(G,)`` int64. G may be 0.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{index} is out of range for a data set of {len(self)} images")
        table = self.ground_truth
        rows = slice(table.starts[index], table.starts[index + 1])
        keep = ~table.iscrowd[rows]
        if not self.train_on_difficult:
            keep &= ~table.difficult[rows]
        height, width = table.sizes[index]
        boxes = np.clip(xywh_to_xyxy(table.boxes[rows][keep]), 0, [width, height, width, height])
        return boxes.astype(np.float32), table.labels[rows][keep]


def subset(dataset: DetectionDataset, indices: Sequence[int]) -> DetectionDataset:
    """The same data set with some of its images, in the order given; image ids stay.

    Raises:
        ValueError: for a place outside the data set or given twice.
    """
    places = np.asarray(indices, dtype=np.int64).reshape(-1)
    outside = places[(places < 0) | (places >= len(dataset))]
    if len(outside):
        raise ValueError(f"subset: {int(outside[0])} is out of range for a data set of {len(dataset)} images")
    if len(np.unique(places)) < len(places):
        raise ValueError("subset: an image is given twice; image ids must stay unique for evaluation")
    part = copy.copy(dataset)
    part.ground_truth = dataset.ground_truth.select_images(places)
    part.paths = None if dataset.paths is None else dataset.paths[places]
    return part
