"""Draw boxes with captions onto images, and save pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssdnorm.files import write_bytes
from ssdnorm.plots.colors import BOX_COLORS, HIT, IGNORED, MISSED, WRONG, text_color

if TYPE_CHECKING:  # its room loads torch
    from ssdnorm.metrics.worst import Outcomes

_GAP = 8  # pixels between the pictures of a sheet


@dataclass(frozen=True)
class DrawnBox:
    """A box xyxy in pixels with its caption and colour."""

    box_px: Sequence[float]
    caption: str
    color: str


def draw_boxes(image: np.ndarray, boxes_px: Any, captions: Sequence[str], labels: Sequence[int]) -> Image.Image:
    """A copy of the image with boxes and captions, a colour per label. The first box lies on top.

    Shape:
        image ``(H, W, 3)`` uint8 RGB; boxes_px ``(N, 4)`` xyxy in its pixels.
    """
    colors = [BOX_COLORS[int(label) % len(BOX_COLORS)] for label in labels]
    boxes = [DrawnBox(*each) for each in zip(np.asarray(boxes_px).tolist(), captions, colors, strict=True)]
    return draw_scaled(Image.fromarray(image), boxes[::-1])


def boxes_of_image(outcomes: Outcomes, place: int) -> tuple[list[DrawnBox], list[DrawnBox]]:
    """Objects (found green, missed, crowd grey) and detections (hit green, false positive, ignored grey), best last."""
    truth, found, names = outcomes.truth, outcomes.found, outcomes.truth.class_names
    objects = []
    for row in range(truth.starts[place], truth.starts[place + 1]):
        missed = ("crowd", IGNORED) if truth.iscrowd[row] else ("missed", MISSED)
        state, color = ("", HIT) if outcomes.detected[row] else missed
        objects.append(DrawnBox(_corners(truth.boxes[row]), f"{names[truth.labels[row] - 1]} {state}".strip(), color))
    places = np.flatnonzero(found.image == place)
    detections = []
    for row in places[np.argsort(found.scores[places], kind="stable")].tolist():
        wrong = ("ignored", IGNORED) if outcomes.ignored[row] else ("wrong", WRONG)
        state, color = ("", HIT) if outcomes.hit[row] else wrong
        caption = f"{names[found.labels[row] - 1]} {found.scores[row]:.2f} {state}".strip()
        detections.append(DrawnBox(_corners(found.boxes[row]), caption, color))
    return objects, detections


def draw_scaled(
    picture: Image.Image, boxes: Sequence[DrawnBox], scale: float = 1.0, *, mark_scale: float = 1.0
) -> Image.Image:
    """A copy of the picture with both sides times ``scale`` and the boxes on it. The last box lies on top.

    Lines have a dark edge. Captions are above all boxes, and inside the picture.

    Args:
        boxes: in pixels of ``picture``.
        mark_scale: size of lines and captions relative to the usual one; above 1 for a copy that is shown small.
    """
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    pen, font = ImageDraw.Draw(picture), _font(picture, mark_scale)
    width = max(1, round(mark_scale * min(picture.size) / 200))
    for box in boxes:
        x1, y1, x2, y2 = (scale * side for side in box.box_px)
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        pen.rectangle((x1 - 1, y1 - 1, corners[2] + 1, corners[3] + 1), outline="black", width=width + 2)
        pen.rectangle(corners, outline=box.color, width=width)
    for box in (box for box in boxes if box.caption):
        x1, y1 = (scale * side for side in box.box_px[:2])
        left, top, right, bottom = pen.textbbox((0, 0), box.caption, font=font)
        wide, high = right - left + 4, bottom - top + 4
        x = max(0.0, min(x1, picture.width - wide))
        y = y1 - high if y1 >= high else max(0.0, y1)
        pen.rectangle((x, y, x + wide, y + high), fill=box.color)
        pen.text((x + 2 - left, y + 2 - top), box.caption, fill=text_color(box.color), font=font)
    return picture


def draw_side_by_side(
    image: np.ndarray, ground_truth: Sequence[DrawnBox], detections: Sequence[DrawnBox], *, title: str = ""
) -> Image.Image:
    """Two copies of an image side by side: ground truth drawn on the left one, detections on the right one.

    Images lower than 480 pixels are enlarged by a whole factor. The last box of each list lies on top.

    Shape:
        image ``(H, W, 3)`` or ``(H, W)`` uint8.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        got = f"{image.dtype} {image.shape}"
        raise ValueError(f"draw_side_by_side: image: got {got}, allowed: uint8 (H, W, 3) or (H, W)")
    picture = Image.fromarray(image).convert("RGB")
    scale = max(1, round(480 / picture.height))
    left, right = (draw_scaled(picture, boxes, scale) for boxes in (ground_truth, detections))
    font = _font(left)
    line = round(1.6 * font.size)
    bar = line * (2 if title else 1)
    sheet = Image.new("RGB", (2 * left.width + _GAP, left.height + bar), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((_GAP, line // 2), title, fill="black", font=font, anchor="lm")
    halves = ((0, "ground truth", ground_truth, left), (left.width + _GAP, "detections", detections, right))
    for x, name, boxes, half in halves:
        sheet.paste(half, (x, bar))
        pen.text((x + _GAP, bar - line // 2), f"{name} ({len(boxes)})", fill="black", font=font, anchor="lm")
    return sheet


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int = 4, side: int = 320) -> Image.Image:
    """Small copies of pictures side by side, in rows."""
    copies = [picture.copy() for picture in pictures]
    for copy in copies:
        copy.thumbnail((side, side))
    height = max((copy.height for copy in copies), default=side)
    rows = -(-len(copies) // columns)
    sheet = Image.new("RGB", (columns * (side + _GAP), rows * (height + _GAP)), "white")
    for i, copy in enumerate(copies):
        sheet.paste(copy, (i % columns * (side + _GAP), i // columns * (height + _GAP)))
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG or JPEG file whole or not at all; Pillow may leave a cut one on a full disk, without an error."""
    encoded = io.BytesIO()
    picture.save(encoded, Image.registered_extensions()[path.suffix.lower()], quality=92)  # PNG ignores it
    write_bytes(path, encoded.getbuffer(), durable=False)


def _corners(box: np.ndarray) -> tuple[float, float, float, float]:
    x, y, w, h = box.tolist()
    return x, y, x + w, y + h


def _font(picture: Image.Image, mark_scale: float = 1.0) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=max(10, round(mark_scale * min(picture.size) / 32)))
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
