"""Turn an image with boxes in pixels into what the network takes, resizing the pixels once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from ssdnorm.data.crops import Window, draw_flip, draw_iou_crop, draw_zoom_out, whole_image
from ssdnorm.data.images import EncodedImage, size_of
from ssdnorm.data.photometric import draw_distortion
from ssdnorm.resize import ImageSize, height_and_width, resize_image

FILL_RGB = (124, 116, 104)  # 255 · torchvision's mean (0.485, 0.456, 0.406)


class TrainTransform:
    """SSD's augmentation: distort colours, zoom out, crop by IoU, flip, resize.

    Zoom-out, crop, flip and resize only choose a window on the image. It is drawn from the boxes alone; then the part
    of the image in it is resized once (antialiased bilinear), distorted at that size and laid on the fill colour. A
    JPEG is decoded at a half, quarter or eighth when that still is twice as fine as needed.

    The result is that of the steps one after the other on full-size pictures, except that colours are distorted after
    the resize. Objects lie within half an output pixel of their boxes.

    Args:
        size: of the network's input, pixels: the side of a square, or (height, width). The aspect ratio is not kept.
        photometric, zoom_out, iou_crop, flip: switch a step off.
        channel_swap: also permute the channels in the colour distortion; off as in Caffe.
        fill: RGB of the zoomed-out canvas, 0 to 255; the mean that the network's weights subtract.

    Sources: SSD paper (arXiv:1512.02325), sections 2.2 and 3.6; Caffe's ssd_pascal.py; torchvision's references.
    """

    def __init__(
        self,
        size: ImageSize,
        *,
        photometric: bool = True,
        zoom_out: bool = True,
        iou_crop: bool = True,
        flip: bool = True,
        channel_swap: bool = False,
        fill: Sequence[int] = FILL_RGB,
    ) -> None:
        self.size = height_and_width(size, where="size")
        if len(fill) != 3 or not all(0 <= value <= 255 for value in fill):
            raise ValueError(f"fill: expected three values from 0 to 255 (RGB); got {list(fill)}")
        self.fill = tuple(map(int, fill))
        self.photometric = photometric
        self.zoom_out = zoom_out
        self.iou_crop = iou_crop
        self.flip = flip
        self.channel_swap = channel_swap

    def __call__(
        self, image: EncodedImage | np.ndarray, boxes_px: np.ndarray, labels: np.ndarray, *, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment one image.

        Args:
            rng: all that is random comes from it.

        Shape:
            image ``(H, W, 3)`` uint8 RGB or encoded; boxes_px ``(G, 4)`` xyxy in pixels; labels ``(G,)``.
            Result: image ``(3, *size)`` uint8, channels last in memory; boxes ``(g, 4)`` float32 xyxy in [0, 1]; labels
            ``(g,)`` int64. g may be less than G, and 0.
        """
        height, width = size_of(image)
        window = self.draw_window(height, width, boxes_px, rng)
        distort = draw_distortion(rng, channel_swap=self.channel_swap) if self.photometric else None
        pixels, scale = _decode_for(image, window, self.size)
        canvas = render_window(pixels, window, self.size, fill=self.fill, scale=scale, distort=distort)
        boxes, labels = window.place_boxes(boxes_px, labels)
        return torch.from_numpy(canvas).permute(2, 0, 1), torch.from_numpy(boxes), torch.from_numpy(labels)

    def draw_window(self, height: int, width: int, boxes_px: np.ndarray, rng: np.random.Generator) -> Window:
        """The window to show of an image of this size: zoom-out, crop and flip drawn in this order."""
        window = whole_image(height, width)
        zoomed = draw_zoom_out(window, rng)  # also where it is off, so that the steps after it draw the same
        window = zoomed if self.zoom_out else window
        if self.iou_crop:
            window = draw_iou_crop(window, boxes_px, rng)
        flipped = draw_flip(window, rng)
        return flipped if self.flip else window


class EvalTransform:
    """Resize alone, bilinear, from the fully decoded image; the aspect ratio is not kept.

    Args:
        size: of the network's input, pixels: the side of a square, or (height, width).
        antialias: see :func:`resize_image`.
    """

    def __init__(self, size: ImageSize, *, antialias: bool = True) -> None:
        self.size = height_and_width(size, where="size")
        self.antialias = antialias

    def __call__(
        self,
        image: EncodedImage | np.ndarray,
        boxes_px: np.ndarray,
        labels: np.ndarray,
        *,
        rng: np.random.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``TrainTransform``; ``rng`` is there for the same call and not used."""
        pixels = image.decode() if isinstance(image, EncodedImage) else image
        boxes, labels = whole_image(*pixels.shape[:2]).place_boxes(boxes_px, labels)
        picture = torch.from_numpy(pixels).permute(2, 0, 1)
        resized = resize_image(picture, *self.size, antialias=self.antialias)
        return resized, torch.from_numpy(boxes), torch.from_numpy(labels)


def render_window(
    pixels: np.ndarray,
    window: Window,
    size: ImageSize,
    *,
    fill: Sequence[int] = FILL_RGB,
    scale: tuple[float, float] = (1.0, 1.0),
    distort: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """The window as a picture: the part of the image in it resized, distorted, and laid on the fill colour.

    Args:
        scale: x and y size of a pixel given over one of the image that ``window`` speaks of, less than 1 for an image
            that was decoded smaller.
        distort: applied to the visible part after the resize, never to the fill beyond its blended edge.

    Shape:
        pixels ``(H, W, 3)`` uint8; result ``(height, width, 3)`` uint8.
    """
    height, width = height_and_width(size, where="size")
    x = _Span.of(window.left * scale[0], window.right * scale[0], pixels.shape[1], width)
    y = _Span.of(window.top * scale[1], window.bottom * scale[1], pixels.shape[0], height)
    if x.empty or y.empty:
        return np.full((height, width, 3), fill, np.uint8)
    part = pixels[y.start : y.stop, x.start : x.stop]
    if x.pad_before or x.pad_after or y.pad_before or y.pad_after:
        part = cv2.copyMakeBorder(
            part, y.pad_before, y.pad_after, x.pad_before, x.pad_after, cv2.BORDER_CONSTANT, value=[*map(int, fill)]
        )
    picture = torch.from_numpy(part).permute(2, 0, 1)
    part = np.ascontiguousarray(resize_image(picture, y.to - y.at, x.to - x.at).permute(1, 2, 0).numpy())
    if distort is not None:
        part = distort(part)
    if window.flip:
        part = cv2.flip(part, 1)
    left, right = (width - x.to, x.at) if window.flip else (x.at, width - x.to)
    border = (y.at, height - y.to, left, right)
    if not any(border):
        return part
    return cv2.copyMakeBorder(part, *border, cv2.BORDER_CONSTANT, value=[*map(int, fill)])


@dataclass(frozen=True)
class _Span:
    """One axis of a window: the pixels ``start:stop``, padded, fill the output ``at:to``."""

    start: int
    stop: int
    pad_before: int
    pad_after: int
    at: int
    to: int

    @property
    def empty(self) -> bool:
        return self.start >= self.stop or self.at >= self.to

    @classmethod
    def of(cls, low: float, high: float, length: int, size: int) -> _Span:
        start, stop = max(round(low), 0), min(round(high), length)
        zoom = size / (high - low)
        pad_before, at = _pad_to_output_edge(start - low, zoom) if low < 0 else (0, 0)
        pad_after, rest = _pad_to_output_edge(high - stop, zoom) if high > length else (0, 0)
        return cls(start, stop, pad_before, pad_after, at, max(size - rest, at))


def _pad_to_output_edge(margin: float, zoom: float) -> tuple[int, int]:
    """Of a margin in image pixels: how many to keep as padding, and how many output pixels the rest takes."""
    # up to one output pixel is kept, so that the image's edge comes nearest to an output pixel's
    choices = range(min(int(1 / zoom) + 1, int(margin) + 1))
    ends = [(margin - pad) * zoom for pad in choices]
    pad = min(choices, key=lambda choice: abs(ends[choice] - round(ends[choice])))
    return pad, round(ends[pad])


def _decode_for(
    image: EncodedImage | np.ndarray, window: Window, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Pixels at least twice as fine as the output needs, and their scale."""
    if not isinstance(image, EncodedImage):
        return image, (1.0, 1.0)
    fine = min(window.height / size[0], window.width / size[1]) / 2
    reduction = max(factor for factor in image.reductions if factor <= max(fine, 1))
    return image.decode(reduction), (1 / reduction, 1 / reduction)
