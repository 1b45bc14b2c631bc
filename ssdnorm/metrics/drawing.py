"""This file is about looking at one image: what is there on the left, what was found on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssdnorm.metrics.errors import KINDS

GREEN, GREY = "#1a9850", "#8c8c8c"
# one colour a kind, told apart with red-green blindness too (Okabe and Ito's palette)
KIND_COLOURS = dict(zip(KINDS, ("#e69f00", "#0072b2", "#cc79a7", "#56b4e9", "#d55e00", "#7a1fa2"), strict=True))


@dataclass(frozen=True)
class DrawnBox:
    """A box xyxy in pixels with its caption and colour."""

    box_px: tuple[float, float, float, float]
    caption: str
    colour: str


def draw_apart(
    image: np.ndarray, ground_truth: Sequence[DrawnBox], detections: Sequence[DrawnBox], *, title: str = ""
) -> Image.Image:
    """Two copies of an image side by side, ground truth drawn on the left one, detections on the right one.

    Captions lie above all boxes, the last box's on top, and inside the picture.

    Args:
        title: a line above both.

    Shape:
        image ``(H, W, 3)`` or ``(H, W)`` uint8.

    Raises:
        ValueError: another shape or type.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        got = f"{image.dtype} {image.shape}"
        raise ValueError(f"draw_apart: image: got {got}, allowed: uint8 (H, W, 3) or (H, W)")
    picture = Image.fromarray(image).convert("RGB")
    scale = max(1, round(480 / picture.height)) if picture.height < 480 else 1
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    size = max(11, min(picture.size) // 36)
    font = ImageFont.load_default(size)
    line, gap = 2 * size, max(4, size // 2)
    bar = line * (2 if title else 1)
    sheet = Image.new("RGB", (2 * picture.width + gap, picture.height + bar), "white")
    words_pen = ImageDraw.Draw(sheet)
    words_pen.text((gap, line // 2), title, fill="black", font=font, anchor="lm")
    for left, words, boxes in (
        (0, f"ground truth ({len(ground_truth)})", ground_truth),
        (picture.width + gap, f"detections ({len(detections)})", detections),
    ):
        panel = picture.copy()
        pen = ImageDraw.Draw(panel)
        for box in boxes:
            x1, y1, x2, y2 = (value * scale for value in box.box_px)
            pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=box.colour, width=max(2, size // 6))
        for box in boxes:
            _write_caption(pen, box, scale, font, size, panel.width)
        sheet.paste(panel, (left, bar))
        words_pen.text((left + gap, bar - line // 2), words, fill="black", font=font, anchor="lm")
    return sheet


def _write_caption(
    pen: ImageDraw.ImageDraw,
    box: DrawnBox,
    scale: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: int,
    width: int,
) -> None:
    x1, y1 = box.box_px[0] * scale, box.box_px[1] * scale
    length = pen.textlength(box.caption, font=font) + 4
    left = max(0.0, min(x1, width - length))
    top = y1 - size - 3 if y1 >= size + 3 else max(0.0, y1)
    pen.rectangle((left, top, left + length, top + size + 3), fill=box.colour)
    pen.text((left + 2, top + 1), box.caption, fill="white", font=font)
