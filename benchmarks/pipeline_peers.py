"""torchvision's two pipelines from a JPEG to a training image: on PIL images, and on tv_tensors."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import functional as pil_steps
from torchvision.transforms import v2

Result = tuple[Tensor, Tensor, Tensor]


class TorchvisionPil:
    """The SSD recipe of torchvision's detection references on PIL images: every step on the full-size image.

    torchvision's own classes draw the random choices; its first functional interface transforms the pixels.

    Args:
        size: S, side of the result in pixels.
        fill: RGB of the zoomed-out canvas, 0 to 255.

    Shape:
        takes the bytes of a JPEG, boxes ``(G, 4)`` xyxy in pixels and labels ``(G,)``; returns ``(3, S, S)`` uint8,
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
        """One image."""
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
        """One image."""
        image = Image.open(io.BytesIO(data)).convert("RGB")
        boxes = _boxes_in(torch.from_numpy(boxes_px), image)
        picture, target = self._steps(image, {"boxes": boxes, "labels": torch.from_numpy(labels)})
        return picture, target["boxes"] / self.size, target["labels"]


def _boxes_in(boxes: Tensor, image: Image.Image) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.size[::-1])
