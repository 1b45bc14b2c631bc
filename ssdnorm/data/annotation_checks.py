"""Find annotations that cannot be trained on, and drop or refuse them with a message."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssdnorm.data.images import check_image_file
from ssdnorm.messages import unknown_name
from ssdnorm.tables import LARGEST_PX

logger = logging.getLogger("ssdnorm.data")

ACTIONS = ("drop", "error")

# kind -> (one, many), as the summary says it
KINDS = {
    "area": ("box without area", "boxes without area"),
    "inverted": ("inverted box", "inverted boxes"),
    "outside": ("box outside the image", "boxes outside the image"),
    "not finite": ("box that is not four finite numbers", "boxes that are not four finite numbers"),
    "class": ("object of an unknown class", "objects of an unknown class"),
    "object": ("incomplete object", "incomplete objects"),
    "image": ("unreadable image", "unreadable images"),
    "missing": ("missing image", "missing images"),
    "annotations": ("unreadable annotation file", "unreadable annotation files"),
    "repeated": ("repeated image", "repeated images"),
    "no image": ("annotation of an unknown image", "annotations of unknown images"),
    "left out": ("annotation of a class not asked for", "annotations of classes not asked for"),
    "clipped": ("box reaching out of the image clipped", "boxes reaching out of the image clipped"),
    "size": ("image whose size is not the annotated one", "images whose size is not the annotated one"),
}

# What find_bad_boxes answers for a box; 0 is good, the last is only noted.
BOX_KINDS = ("", "not finite", "inverted", "area", "outside", "clipped")
_BOX_REASONS = {
    "not finite": "is not four finite numbers below 1e9",
    "inverted": "is inverted",
    "area": "has no area",
    "outside": "lies outside the image of {width} × {height} pixels",
}

_MESSAGES_SHOWN = 20
_CLIP_TOLERANCE_PX = 1.0  # annotation tools round; less than a pixel outside is not reported


class Problems:
    """Collects what is wrong with a data set while it is read.

    Every problem is one sentence that names file and object. The first twenty are logged as warnings by the logger
    ``ssdnorm.data``, all are kept in ``messages``, and ``report`` logs the counts per kind once.

    Args:
        action: ``drop`` leaves bad annotations out, ``error`` refuses the data set at the first one.
        where: the data set as the user knows it; begins the summary.

    Raises:
        ValueError: from the constructor for an unknown action, from ``drop`` under ``error``.
    """

    def __init__(self, action: str, *, where: str) -> None:
        if action not in ACTIONS:
            raise ValueError(f"on_bad_annotation: {unknown_name('action', action, ACTIONS)}")
        self.action = action
        self.where = where
        self.messages: list[str] = []
        self.dropped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()

    def drop(self, kind: str, message: str) -> None:
        """Take an annotation or image out, or raise under ``error``."""
        if self.action == "error":
            raise ValueError(f"{message} (on_bad_annotation: error)")
        self.dropped[kind] += 1
        self._tell(f"{message}; dropped")

    def note(self, kind: str, message: str) -> None:
        """Report something unusual that loses no data."""
        self.noted[kind] += 1
        self._tell(message)

    def count(self, kind: str, number: int) -> None:
        """Add to the summary alone; for what is too common for a sentence each."""
        if number:
            self.noted[kind] += number

    def summary(self) -> str:
        """One line of counts, empty when there is nothing to tell: ``BCCD trainval: 2 boxes without area dropped``."""
        parts = [f"{number} {KINDS[kind][number != 1]} dropped" for kind, number in self.dropped.items()]
        parts += [f"{number} {KINDS[kind][number != 1]}" for kind, number in self.noted.items()]
        return f"{self.where}: {', '.join(parts)}" if parts else ""

    def report(self) -> None:
        """Log the summary: a warning when anything was dropped, else for information."""
        if summary := self.summary():
            logger.log(logging.WARNING if self.dropped else logging.INFO, summary)

    def _tell(self, message: str) -> None:
        self.messages.append(message)
        if len(self.messages) <= _MESSAGES_SHOWN:
            logger.warning(message)
        elif len(self.messages) == _MESSAGES_SHOWN + 1:
            logger.warning("%s: further problems are counted, not shown", self.where)


def find_bad_boxes(boxes_px: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """What is wrong with each box, as an index into ``BOX_KINDS``.

    A box is bad when a coordinate is not finite or above 1e9, when it is inverted, has no area or shares no area with
    its image. One that reaches out of the image by more than a pixel is only ``clipped``: it is usable.

    Shape:
        boxes_px ``(M, 4)`` float64 xyxy; sizes ``(M, 2)`` height and width of each box's image, 0 when unknown;
        result ``(M,)`` int64.

    Example:
        >>> boxes = np.array([[1.0, 1, 5, 5], [4, 2, 4, 9], [30, 0, 40, 9], [-5, 0, 9, 9]])
        >>> [BOX_KINDS[kind] for kind in find_bad_boxes(boxes, np.full((4, 2), 20))]
        ['', 'area', 'outside', 'clipped']
    """
    left, top, right, bottom = boxes_px.T
    height, width = np.where(sizes > 0, sizes, np.inf).T
    reach = np.max([-left, -top, right - width, bottom - height], axis=0)
    conditions = [
        ~(np.abs(boxes_px) < LARGEST_PX).all(axis=1),
        (right < left) | (bottom < top),
        (right == left) | (bottom == top),
        (right <= 0) | (bottom <= 0) | (left >= width) | (top >= height),
        reach > _CLIP_TOLERANCE_PX,
    ]
    return np.select(conditions, range(1, len(BOX_KINDS)), default=0)


def usable_boxes(
    boxes_px: np.ndarray, sizes: np.ndarray, problems: Problems, describe: Callable[[int], str]
) -> np.ndarray:
    """Which boxes can be used, ``(M,)`` bool; the others are dropped by what ``describe`` says of their row.

    Shape:
        as of :func:`find_bad_boxes`.
    """
    kinds = find_bad_boxes(boxes_px, sizes)
    is_clipped = kinds == BOX_KINDS.index("clipped")
    for row in np.flatnonzero((kinds > 0) & ~is_clipped).tolist():
        kind, (height, width) = BOX_KINDS[kinds[row]], sizes[row]
        problems.drop(kind, f"{describe(row)} {_BOX_REASONS[kind].format(height=height, width=width)}")
    problems.count("clipped", int(is_clipped.sum()))
    return (kinds == 0) | is_clipped


def usable_image(
    path: Path, problems: Problems, *, where: str = "", annotated: tuple[int, int] | None = None
) -> tuple[int, int] | None:
    """Height and width of an image file; None, and a problem, where it cannot be read.

    Args:
        where: the image in the annotations, for messages.
        annotated: its size there, 0 if unknown, which is compared; None where an annotation has no size.
    """
    try:
        size, orientation = check_image_file(path)
    except (OSError, ValueError) as error:
        problems.drop("image", str(error))
        return None
    hint = f"its EXIF orientation {orientation} is not applied" if orientation != 1 else ""
    if annotated is None:
        if hint:
            problems.note("size", f"{path.name}: {hint}")
        return size
    height, width = annotated[0] or size[0], annotated[1] or size[1]
    if (height, width) != size:
        differs = f"says {width} × {height}, {path.name} has {size[1]} × {size[0]}"
        problems.note("size", f"{where}: {differs}{hint and '; '}{hint}")
    return size
