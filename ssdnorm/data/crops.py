"""Choose the part of an image that is shown: zoom-out, IoU crop and flip, drawn from boxes and sizes alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# SSD paper, section 2.2: the crop has at least this IoU with one object; 0 is "any crop", None the uncropped image.
CROP_OPTIONS: tuple[float | None, ...] = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
_TRIES = 50  # crops per option, as torchvision's trials
_MAX_ZOOM_OUT = 4.0  # sides of the canvas over those of the image
MIN_SIDE = 1e-3  # of the window; a third of a pixel at 300. Thinner boxes cannot be encoded sensibly


@dataclass(frozen=True)
class Window:
    """An axis-aligned window on an image, perhaps mirrored: what zoom-out, crop and flip together amount to.

    Edges are integer pixels of the original image. A window may reach out of the image; that part is filled.
    """

    left: int
    top: int
    right: int
    bottom: int
    flip: bool = False

    @property
    def width(self) -> int:
        """In pixels of the original image."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """In pixels of the original image."""
        return self.bottom - self.top

    def place_boxes(self, boxes_px: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The boxes whose centre is strictly inside the window, cut to it and relative to it.

        Shape:
            boxes_px ``(G, 4)`` xyxy pixels of the image, labels ``(G,)``; result ``(g, 4)`` float32 xyxy in [0, 1]
            and ``(g,)``, g ≤ G. Boxes thinner than ``MIN_SIDE`` after the cut are left out.
        """
        x, y = (boxes_px[:, 0] + boxes_px[:, 2]) / 2, (boxes_px[:, 1] + boxes_px[:, 3]) / 2
        keep = (self.left < x) & (x < self.right) & (self.top < y) & (y < self.bottom)
        origin = np.array([self.left, self.top, self.left, self.top], np.float64)
        scale = np.array([self.width, self.height, self.width, self.height], np.float64)
        boxes = np.clip((boxes_px[keep] - origin) / scale, 0, 1)
        if self.flip:
            boxes[:, [0, 2]] = 1 - boxes[:, [2, 0]]
        thick = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1)
        return boxes[thick].astype(np.float32), labels[keep][thick]


def whole_image(height: int, width: int) -> Window:
    """The window that shows the image and nothing else."""
    return Window(0, 0, width, height)


def draw_zoom_out(window: Window, rng: np.random.Generator) -> Window:
    """Half the time, place the window at random in a canvas up to four times as wide and high, and show the canvas.

    Sources: SSD paper, section 3.6 (expansion, ratio 1 to 4, half the time); torchvision's ``RandomZoomOut``.
    """
    chance, ratio, x, y = rng.random(4)
    if chance >= 0.5:
        return window
    ratio = 1 + (_MAX_ZOOM_OUT - 1) * ratio
    width, height = int(window.width * ratio), int(window.height * ratio)
    left, top = window.left - int((width - window.width) * x), window.top - int((height - window.height) * y)
    return Window(left, top, left + width, top + height, window.flip)


def draw_iou_crop(window: Window, boxes_px: np.ndarray, rng: np.random.Generator) -> Window:
    """Crop the window so that at least one object is well seen.

    An option of ``CROP_OPTIONS`` is drawn; then up to 50 crops with sides 0.3 to 1 of the window's and an
    aspect ratio of 0.5 to 2 in pixels, until one holds the centre of an object and has at least the option's IoU with
    one of these objects. When none does, another option is drawn. Without boxes the window stays.

    Sources: SSD paper, section 2.2; torchvision's ``RandomIoUCrop``, whose distribution this is.
    Differs from Caffe: it draws area and aspect ratio, relative to the image's own, where this draws width and height,
    and asks for the IoU with any object, its centre inside or not. amdegroot's SSD leaves out 0.5, and its IoU test
    never fails.

    Shape:
        boxes_px ``(G, 4)`` xyxy in pixels of the image.
    """
    if not len(boxes_px):
        return window
    while True:
        min_iou = CROP_OPTIONS[rng.integers(len(CROP_OPTIONS))]
        if min_iou is None:
            return window
        windows = _draw_windows(window, rng.random((_TRIES, 4)))
        best = _best_iou_of_held(windows, boxes_px)
        good = np.flatnonzero(best >= max(min_iou, 1e-12))
        if len(good):
            left, top, right, bottom = windows[good[0]].tolist()
            return Window(left, top, right, bottom, window.flip)


def draw_flip(window: Window, rng: np.random.Generator) -> Window:
    """Mirror the window left to right half the time."""
    return replace(window, flip=window.flip ^ bool(rng.random() < 0.5))


def _draw_windows(window: Window, draws: np.ndarray) -> np.ndarray:
    """Candidate crops ``(n, 4)`` int64 xyxy; an unacceptable aspect ratio or an empty window becomes all zero."""
    share_w, share_h = 0.3 + 0.7 * draws[:, 0], 0.3 + 0.7 * draws[:, 1]
    width, height = (window.width * share_w).astype(np.int64), (window.height * share_h).astype(np.int64)
    left = window.left + ((window.width - width) * draws[:, 2]).astype(np.int64)
    top = window.top + ((window.height - height) * draws[:, 3]).astype(np.int64)
    usable = (width > 0) & (height > 0) & (width <= 2 * height) & (height <= 2 * width)
    return np.where(usable[:, None], np.stack([left, top, left + width, top + height], axis=1), 0)


def _best_iou_of_held(windows: np.ndarray, boxes_px: np.ndarray) -> np.ndarray:
    """For each window ``(n, 4)`` its largest IoU with a box ``(G, 4)`` whose centre it holds, else 0; ``(n,)``."""
    low, high = windows[:, None, :2], windows[:, None, 2:]
    centre = (boxes_px[:, :2] + boxes_px[:, 2:]) / 2
    held = ((low < centre) & (centre < high)).all(axis=2)
    overlap = np.clip(np.minimum(high, boxes_px[:, 2:]) - np.maximum(low, boxes_px[:, :2]), 0, None).prod(axis=2)
    areas = (windows[:, 2:] - windows[:, :2]).prod(axis=1)[:, None] + (boxes_px[:, 2:] - boxes_px[:, :2]).prod(axis=1)
    return np.where(held, overlap / np.maximum(areas - overlap, 1e-9), 0).max(axis=1)  # no window, no area: no IoU
