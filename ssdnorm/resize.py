"""Resize pictures to the network's input: the one resize of data, detector and export."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ImageSize = int | tuple[int, int]  # of a network's input, pixels: the side of a square, or height and width


def height_and_width(size: int | list[int] | tuple[int, ...], *, where: str = "image_size") -> tuple[int, int]:
    """Height and width of a network's input, pixels.

    Raises:
        ValueError: neither a whole number nor two, or one below 1.

    Example:
        >>> height_and_width(300), height_and_width([384, 640])
        ((300, 300), (384, 640))
    """
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"{where}: expected pixels, 1 or more, or (height, width); got {size!r}")
    return sides[0], sides[1]


def resize_image(image: Tensor, height: int, width: int, *, antialias: bool = True) -> Tensor:
    """Resize a picture bilinearly; the aspect ratio is not kept.

    Args:
        antialias: average over the pixels that fall together, as Pillow does. Networks of this library are trained on
            antialiased pictures; torchvision's, amdegroot's and lufficc's are not.

    Shape:
        image ``(3, H, W)``, uint8 or floats in [0, 1]; output ``(3, height, width)`` in channels-last memory. With
        antialiasing uint8 stays uint8 (on every device the same up to one step of rounding); without, it becomes
        floats in [0, 1].
    """
    is_bytes = image.dtype == torch.uint8
    if is_bytes and not antialias:
        image, is_bytes = image.float() / 255, False
    if tuple(image.shape[-2:]) == (height, width):
        return image
    batch = image[None].contiguous(memory_format=torch.channels_last)
    if is_bytes and image.device.type != "cpu":  # the kernel for bytes exists on the CPU alone
        resized = F.interpolate(batch.float(), (height, width), mode="bilinear", antialias=True)
        return resized[0].round().clamp_(0, 255).to(torch.uint8)
    return F.interpolate(batch, (height, width), mode="bilinear", antialias=antialias)[0]
