"""SSD's colour distortion, as tables over 8-bit values."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

_VALUES = np.arange(256, dtype=np.float32)


@dataclass(frozen=True)
class Distortion:
    """One drawn distortion; a value that changes nothing means that the step is left out.

    Args:
        brightness: added to every channel, in 1/255.
        contrast: factor on every channel.
        saturation: factor on S of HSV.
        hue: added to H of HSV, in degrees, around the circle.
        contrast_last: contrast after saturation and hue instead of before.
        channels: order of the channels, e.g. ``(2, 1, 0)``.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_last: bool = False
    channels: tuple[int, int, int] = (0, 1, 2)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The distorted image; the one given is not changed.

        Shape:
            ``(H, W, 3)`` uint8 RGB, both.
        """
        first = _VALUES + self.brightness
        if not self.contrast_last:
            first = np.clip(first, 0, 255) * self.contrast
        image = cv2.LUT(image, _to_uint8(first))  # a copy even when nothing changes
        if self.saturation != 1 or self.hue != 0:
            image = self._shift_hsv(image)
        if self.contrast_last and self.contrast != 1:
            image = cv2.LUT(image, _to_uint8(_VALUES * self.contrast))
        if self.channels != (0, 1, 2):
            planes = cv2.split(image)
            image = cv2.merge([planes[channel] for channel in self.channels])
        return image

    def _shift_hsv(self, image: np.ndarray) -> np.ndarray:
        hue = np.rint(_VALUES + self.hue * 256 / 360).astype(np.int64).astype(np.uint8)  # wraps at 256
        tables = np.stack([hue, _to_uint8(_VALUES * self.saturation), _VALUES.astype(np.uint8)], axis=1)
        hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), tables[None])
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def draw_distortion(rng: np.random.Generator, *, channel_swap: bool = False) -> Distortion:
    """Each step half the time: brightness ± 32, contrast and saturation 0.5 to 1.5, hue ± 18°; contrast first or last.

    Args:
        channel_swap: also a random order of the channels, half the time. Caffe's recipe has it off.

    Sources: SSD paper, section 3.6, after A. Howard (arXiv:1312.5402); Caffe's im_transforms.cpp.
    Differs from Caffe: its hue ± 18 are OpenCV's units of 2° and stop at red; here degrees, around the circle, as in
    amdegroot's SSD and torchvision. Contrast scales around black, as in Caffe; torchvision's scales around mean grey.
    """
    use = rng.random(5) < 0.5
    amount = rng.uniform(-1, 1, size=4)
    channels = tuple(int(i) for i in rng.permutation(3)) if channel_swap and rng.random() < 0.5 else (0, 1, 2)
    return Distortion(
        brightness=32 * amount[0] if use[0] else 0.0,
        contrast=1 + 0.5 * amount[1] if use[1] else 1.0,
        saturation=1 + 0.5 * amount[2] if use[2] else 1.0,
        hue=18 * amount[3] if use[3] else 0.0,
        contrast_last=bool(use[4]),
        channels=(channels[0], channels[1], channels[2]),
    )


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
