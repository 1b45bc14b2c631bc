"""Ground truth and detections of a data set, each as one table of flat arrays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssdnorm.structures import Detections


class SharedArrays:
    """Base of objects whose numpy arrays worker processes share, whether they are forked or spawned.

    A forked process reads its parent's pages. A spawned one gets its objects by pickle: pickling moves the arrays to
    shared memory once, and both processes map it.

    Example:
        >>> class Numbers(SharedArrays):
        ...     def __init__(self):
        ...         self.primes = np.array([2, 3, 5])
        >>> numbers = Numbers()
        >>> numbers.__getstate__()["primes"].is_shared()
        True
        >>> numbers.primes.tolist()
        [2, 3, 5]
    """

    _tensors: dict[str, Tensor]

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name != "_tensors"}
        if "_tensors" not in vars(self):
            arrays = {name: a for name, a in state.items() if isinstance(a, np.ndarray) and a.dtype.kind not in "OT"}
            self._hold({name: torch.from_numpy(np.array(array)).share_memory_() for name, array in arrays.items()})
        return {**state, **self._tensors}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
        self._hold({name: value for name, value in state.items() if isinstance(value, Tensor)})

    def _hold(self, tensors: dict[str, Tensor]) -> None:
        # a tensor knows that its memory is shared and is pickled as a handle; an array made from it does not
        object.__setattr__(self, "_tensors", tensors)  # works in frozen dataclasses, too
        for name, tensor in tensors.items():
            object.__setattr__(self, name, tensor.numpy())


@dataclass(frozen=True, eq=False)
class GroundTruth(SharedArrays):
    """All annotated objects of a data set; those of image i are the rows ``starts[i]`` to ``starts[i + 1]``.

    Shape, for N images, C classes and M objects:
        image_ids ``(N,)`` and category_ids ``(C,)``: int64, or objects where a user's ids are no integers;
        sizes ``(N, 2)`` int64 height and width in pixels, 0 if unknown; names ``(N,)`` of ``TEXT``: file names, empty
        if unknown; class_names: C strings; starts ``(N + 1,)`` int64; ids ``(M,)`` int64, of the annotations;
        boxes ``(M, 4)`` float64 xywh in pixels, 0-based, as in the file; labels ``(M,)`` int64, 1 … C, in the order of
        ``category_ids``; area ``(M,)`` float64, squared pixels; iscrowd, difficult ``(M,)`` bool.
    """

    image_ids: np.ndarray
    sizes: np.ndarray
    names: np.ndarray
    category_ids: np.ndarray
    class_names: tuple[str, ...]
    starts: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    area: np.ndarray
    iscrowd: np.ndarray
    difficult: np.ndarray

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """C, without background."""
        return len(self.class_names)

    @property
    def num_objects(self) -> int:
        """M, crowd regions and difficult objects included."""
        return len(self.labels)

    @property
    def image(self) -> np.ndarray:
        """The place of each object's image, ``(M,)`` int64, ascending."""
        return np.repeat(np.arange(self.num_images), np.diff(self.starts))

    def select_images(self, places: np.ndarray) -> GroundTruth:
        """The table of some of the images, in the order given."""
        counts = np.diff(self.starts)[places]
        starts = np.append(0, counts.cumsum())
        rows = np.repeat(self.starts[places] - starts[:-1], counts) + np.arange(starts[-1])
        return replace(
            self,
            image_ids=self.image_ids[places],
            sizes=self.sizes[places],
            names=self.names[places],
            starts=starts,
            **{name: getattr(self, name)[rows] for name in _PER_OBJECT},
        )

    def select_objects(self, keep: np.ndarray) -> GroundTruth:
        """The table with some of the objects, ``(M,)`` bool, and all images."""
        starts = np.append(0, np.bincount(self.image[keep], minlength=self.num_images).cumsum())
        return replace(self, starts=starts, **{name: getattr(self, name)[keep] for name in _PER_OBJECT})


TEXT = np.dtypes.StringDType()
LARGEST_PX = 1e9  # of a coordinate: the area of a larger box may overflow
_PER_OBJECT = ("ids", "boxes", "labels", "area", "iscrowd", "difficult")


@dataclass(frozen=True, eq=False)
class DetectionTable:
    """All detections of a data set, in the order in which they came.

    Shape:
        image ``(D,)`` int64: places in the ground truth's ``image_ids``; labels ``(D,)`` int64, 1 … C;
        boxes ``(D, 4)`` float64 xywh in pixels; scores ``(D,)`` float64.
    """

    image: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def select(self, keep: np.ndarray) -> DetectionTable:
        """The detections that a mask or a list of places chooses."""
        return DetectionTable(self.image[keep], self.labels[keep], self.boxes[keep], self.scores[keep])

    @classmethod
    def from_images(cls, found: Mapping[int, Detections]) -> DetectionTable:
        """Detections by place in the data set as a table, in the order of the places."""
        places = sorted(found)
        counts = [len(found[place]["scores"]) for place in places]
        boxes, scores, labels = (
            torch.cat([found[place][key] for place in places]).cpu().numpy() if places else np.zeros(0)
            for key in ("boxes", "scores", "labels")
        )
        return cls(
            image=np.repeat(np.array(places, np.int64), counts),
            labels=labels.astype(np.int64),
            boxes=xyxy_to_xywh(boxes.astype(np.float64).reshape(-1, 4)),
            scores=scores.astype(np.float64),
        )


def in_id_order(truth: GroundTruth, found: DetectionTable) -> tuple[GroundTruth, DetectionTable]:
    """Both tables with images in the order of their ids and classes in that of the category ids.

    Metrics stand on this order: equal scores are ranked by image id, and the same data set read from another file gives
    the same numbers to the last bit.
    """
    order = np.argsort(truth.image_ids, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        truth, found = truth.select_images(order), replace(found, image=np.argsort(order)[found.image])
    order = np.argsort(truth.category_ids, kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        new_label = np.argsort(order) + 1
        truth = replace(
            truth,
            category_ids=truth.category_ids[order],
            class_names=tuple(truth.class_names[k] for k in order.tolist()),
            labels=new_label[truth.labels - 1],
        )
        found = replace(found, labels=new_label[found.labels - 1])
    return truth, found


def id_array(ids: Sequence[Hashable] | np.ndarray) -> np.ndarray:
    """Ids as int64, or as objects where they are not all integers."""
    if all(issubclass(kind, int | np.integer) for kind in set(map(type, ids))):
        try:
            return np.array(ids, np.int64)
        except OverflowError:
            pass
    array = np.empty(len(ids), object)
    array[:] = list(ids)
    return array


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """``(N, 4)`` corner and size to two corners."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """``(N, 4)`` two corners to corner and size."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
