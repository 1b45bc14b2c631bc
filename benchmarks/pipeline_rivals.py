"""This file is about the usual ways from a JPEG to a training picture: torchvision on PIL or tensors, OpenCV floats."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import functional as pil_steps
from torchvision.transforms import v2

Result = tuple[Tensor, Tensor, Tensor]


class TorchvisionPil:
    """SSD's recipe of torchvision's detection references on PIL images: one full-size picture after the other.

    The random choices are drawn by torchvision's own classes; the pixels are touched by its first functional interface.

    Args:
        size: S, side of the result in pixels.
        fill: RGB of the zoomed-out canvas, 0 to 255.

    Shape:
        called with the bytes of a JPEG, boxes ``(G, 4)`` xyxy in pixels and labels ``(G,)``; gives ``(3, S, S)`` uint8,
        boxes ``(g, 4)`` in [0, 1], labels ``(g,)``.
    """

    def __init__(self, size: int, fill: Sequence[int]) -> None:
        self.size = size
        self.fill = list(fill)
        self._distort, self._zoom_out, self._crop = (
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(),
            v2.RandomIoUCrop(),
        )

    def __call__(self, data: bytes, boxes_px: np.ndarray, labels: np.ndarray) -> Result:
        """One picture."""
        image = self._distorted(Image.open(io.BytesIO(data)).convert("RGB"))
        boxes, kept = torch.from_numpy(boxes_px), torch.from_numpy(labels)
        if torch.rand(1) < 0.5:
            padding = self._zoom_out.make_params([image])["padding"]
            image = pil_steps.pad(image, padding, fill=tuple(self.fill))
            boxes = boxes + torch.tensor(padding[:2] * 2)
        window = self._crop.make_params([image, _boxes_in(boxes, image)])
        if window:
            left, top, height, width = (window[key] for key in ("left", "top", "height", "width"))
            image = pil_steps.crop(image, top, left, height, width)
            inside = window["is_within_crop_area"]
            boxes = (boxes - torch.tensor([left, top] * 2))[inside].clamp(min=0)
            boxes, kept = torch.minimum(boxes, torch.tensor([width, height] * 2)), kept[inside]
        width, height = image.size
        if torch.rand(1) < 0.5:
            image = pil_steps.hflip(image)
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
        image = pil_steps.resize(image, [self.size, self.size])
        return pil_steps.pil_to_tensor(image), boxes / torch.tensor([width, height] * 2), kept

    def _distorted(self, image: Image.Image) -> Image.Image:
        drawn = self._distort.make_params([image])
        contrast = [("contrast", pil_steps.adjust_contrast)]
        steps = [("brightness", pil_steps.adjust_brightness), *(contrast if drawn["contrast_before"] else [])]
        steps += [("saturation", pil_steps.adjust_saturation), ("hue", pil_steps.adjust_hue)]
        steps += [] if drawn["contrast_before"] else contrast
        for name, step in steps:
            if drawn[f"{name}_factor"] is not None:
                image = step(image, drawn[f"{name}_factor"])
        if drawn["channel_permutation"] is not None:
            image = pil_steps.to_pil_image(pil_steps.pil_to_tensor(image)[drawn["channel_permutation"]])
        return image


class TorchvisionTensors:
    """The same recipe by torchvision's transforms v2 on tv_tensors (``data_augmentation=ssd``, then the resize).

    Args, Shape: as ``TorchvisionPil``.
    """

    def __init__(self, size: int, fill: Sequence[int]) -> None:
        self.size = size
        self._steps = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomPhotometricDistort(),
                v2.RandomZoomOut(fill={tv_tensors.Image: tuple(fill), "others": 0}),
                v2.RandomIoUCrop(),
                v2.RandomHorizontalFlip(),
                v2.SanitizeBoundingBoxes(),
                v2.Resize((size, size), antialias=True),
                v2.ToPureTensor(),
            ]
        )

    def __call__(self, data: bytes, boxes_px: np.ndarray, labels: np.ndarray) -> Result:
        """One picture."""
        image = Image.open(io.BytesIO(data)).convert("RGB")
        boxes = _boxes_in(torch.from_numpy(boxes_px), image)
        picture, target = self._steps(image, {"boxes": boxes, "labels": torch.from_numpy(labels)})
        return picture, target["boxes"] / self.size, target["labels"]


class OpenCvFloats:
    """The augmentation of the widespread PyTorch port of SSD: OpenCV on float32 pictures, then the mean subtracted.

    Written after its description: distort colours (contrast first or last, saturation and hue in HSV, channels
    shuffled), expand onto a canvas of the mean, sample a patch in up to 50 tries, mirror, resize, subtract the mean.

    Args, Shape: as ``TorchvisionPil``, but the picture is float32, less the mean.
    """

    _PATCHES: tuple[Any, ...] = (None, (0.1, np.inf), (0.3, np.inf), (0.7, np.inf), (0.9, np.inf), (-np.inf, np.inf))

    def __init__(self, size: int, fill: Sequence[int], *, seed: int = 0) -> None:
        self.size = size
        self.mean = np.array(fill[::-1], np.float32)  # BGR, as OpenCV decodes
        self.rng = np.random.default_rng(seed)

    def __call__(self, data: bytes, boxes_px: np.ndarray, labels: np.ndarray) -> Result:
        """One picture."""
        image = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), np.float32)
        image, boxes = self._expanded(self._distorted(image), boxes_px)
        image, boxes, labels = self._patch(image, boxes, labels)
        height, width = image.shape[:2]
        if self.rng.random() < 0.5:
            image, boxes = image[:, ::-1], boxes.copy()
            boxes[:, 0::2] = width - boxes[:, 2::-2]
        image = cv2.resize(np.ascontiguousarray(image), (self.size, self.size)) - self.mean
        picture = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1])).permute(2, 0, 1).contiguous()
        scale = np.array([width, height, width, height], np.float32)
        return picture, torch.from_numpy((boxes / scale).astype(np.float32)), torch.from_numpy(labels)

    def _distorted(self, image: np.ndarray) -> np.ndarray:
        use, amount = self.rng.random(6) < 0.5, self.rng.uniform(-1, 1, 4)
        if use[0]:
            image = image + np.float32(32 * amount[0])
        if use[1] and use[4]:
            image = image * np.float32(1 + 0.5 * amount[1])
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        if use[2]:
            image[:, :, 1] *= 1 + 0.5 * amount[2]
        if use[3]:
            image[:, :, 0] = (image[:, :, 0] + 18 * amount[3]) % 360
        image = cv2.cvtColor(image, cv2.COLOR_HSV2BGR)
        if use[1] and not use[4]:
            image = image * np.float32(1 + 0.5 * amount[1])
        return image[:, :, self.rng.permutation(3)] if use[5] else image

    def _expanded(self, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.rng.random() < 0.5:
            return image, boxes
        (height, width), ratio = image.shape[:2], self.rng.uniform(1, 4)
        left, top = (int(self.rng.uniform(0, side * ratio - side)) for side in (width, height))
        canvas = np.empty((int(height * ratio), int(width * ratio), 3), np.float32)
        canvas[:] = self.mean
        canvas[top : top + height, left : left + width] = image
        return canvas, boxes + np.array([left, top, left, top], boxes.dtype)

    def _patch(self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
        height, width = image.shape[:2]
        while True:
            bounds = self._PATCHES[self.rng.integers(len(self._PATCHES))]
            if bounds is None:
                return image, boxes, labels
            for _ in range(50):
                w, h = self.rng.uniform(0.3 * width, width), self.rng.uniform(0.3 * height, height)
                if not 0.5 <= h / w <= 2:
                    continue
                left, top = int(self.rng.uniform(0, width - w)), int(self.rng.uniform(0, height - h))
                patch = np.array([left, top, int(left + w), int(top + h)])
                iou = _iou_with(patch, boxes)
                if iou.min() < bounds[0] and bounds[1] < iou.max():
                    continue  # never so: what the port tests, kept because it decides how many windows are tried
                centre = (boxes[:, :2] + boxes[:, 2:]) / 2
                held = ((patch[:2] < centre) & (centre < patch[2:])).all(axis=1)
                if held.any():
                    low = np.maximum(boxes[held, :2], patch[:2]) - patch[:2]
                    high = np.minimum(boxes[held, 2:], patch[2:]) - patch[:2]
                    part = image[patch[1] : patch[3], patch[0] : patch[2]]
                    return part, np.concatenate([low, high], axis=1), labels[held]


def _boxes_in(boxes: Tensor, image: Image.Image) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.size[::-1])


def _iou_with(window: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(boxes[:, 2:], window[2:]) - np.maximum(boxes[:, :2], window[:2])
    overlap = sides.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    iou: np.ndarray = overlap / (areas + (window[2:] - window[:2]).prod() - overlap)
    return iou
