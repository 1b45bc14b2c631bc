"""This file is about drawing detections and ground truth onto pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's eight colours, told apart by colour-blind people; black is left out
_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


def draw_boxes(image: np.ndarray, boxes_px: Any, captions: Sequence[str], labels: Sequence[int]) -> Image.Image:
    """A copy of the image with boxes and captions, one colour a label.

    Args:
        captions: one a box, such as ``"dog 0.93"``.
        labels: choose the colours.

    Shape:
        image ``(H, W, 3)`` uint8 RGB; boxes_px ``(N, 4)`` xyxy in its pixels.
    """
    picture = Image.fromarray(image)
    canvas = ImageDraw.Draw(picture)
    short_side = min(picture.size)
    line = max(1, round(short_side / 200))
    font = ImageFont.load_default(size=max(10, round(short_side / 32)))
    # the last drawn lies on top: draw the best one last
    for box, caption, label in reversed(list(zip(boxes_px, captions, labels, strict=True))):
        x1, y1, x2, y2 = (float(v) for v in box)
        color = _COLORS[int(label) % len(_COLORS)]
        canvas.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=line)
        left, top, right, bottom = canvas.textbbox((0, 0), caption, font=font)
        width, height = right - left + 4, bottom - top + 4
        x = min(max(x1, 0.0), max(picture.width - width, 0.0))
        y = y1 - height if y1 >= height else y1
        canvas.rectangle((x, y, x + width, y + height), fill=color)
        canvas.text((x + 2 - left, y + 2 - top), caption, fill="black", font=font)
    return picture


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int = 4, side: int = 320) -> Image.Image:
    """Small copies of pictures side by side, in rows."""
    gap = 8
    copies = [picture.copy() for picture in pictures]
    for copy in copies:
        copy.thumbnail((side, side))
    height = max((copy.height for copy in copies), default=side)
    rows = -(-len(copies) // columns)
    sheet = Image.new("RGB", (columns * (side + gap), rows * (height + gap)), "white")
    for i, copy in enumerate(copies):
        sheet.paste(copy, (i % columns * (side + gap), i // columns * (height + gap)))
    return sheet
