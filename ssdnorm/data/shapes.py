"""Pictures of coloured shapes, drawn on the fly: a detection problem that needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ssdnorm.data.annotated_images import AnnotatedBox, AnnotatedImage, table_of_images
from ssdnorm.data.annotation_checks import Problems
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.tables import GroundTruth

SHAPES = ("circle", "cross", "square", "star", "triangle")
CLASS_COLORS = ((220, 60, 50), (60, 170, 75), (60, 90, 220), (240, 200, 40), (170, 70, 200))  # RGB

_MAX_COVERED = 0.35  # of a shape's box, by the boxes of later shapes
_MIN_INSIDE = 0.7  # of a shape's box, inside the image
_MIN_CONTRAST = 60  # between shape and local background, over the three channels
_COLOR_JITTER = 40  # of a class's colour, each channel
_FIXED_POINT_BITS = 6


class ShapesDataset(DetectionDataset):
    """Shapes of five classes on textured ground, of many sizes, turned, partly covered and partly cut by the border.

    An image depends on (seed, index) alone: a longer data set begins with the shorter one, and two seeds share no
    image. Shapes are drawn in order, later over earlier; boxes are those of the whole shape, cut to the image. There
    are no difficult objects. Image i has id i + 1 and is called ``shapes_<seed>_<i>.png``.

    Args:
        num_images: how many.
        seed: of the pictures; take different ones for training and testing.
        image_size: height and width in pixels.
        max_objects: 1 to so many shapes an image; fewer where they find no room.
        min_side, max_side: the diameter of a shape over the image's short side.
        class_colors: each class has a hue of its own, which a short training learns; otherwise colours say nothing.

    Example:
        >>> data = ShapesDataset(2, seed=0, image_size=(60, 80))
        >>> data.load_image(0).shape, data.class_names
        ((60, 80, 3), ('circle', 'cross', 'square', 'star', 'triangle'))
    """

    def __init__(
        self,
        num_images: int,
        *,
        seed: int,
        image_size: tuple[int, int] = (300, 300),
        max_objects: int = 6,
        min_side: float = 0.1,
        max_side: float = 0.5,
        class_colors: bool = False,
    ) -> None:
        if num_images < 1 or max_objects < 1:
            raise ValueError(f"shapes: expected 1 or more images and objects; got {num_images} and {max_objects}")
        if min(image_size) < 16:
            raise ValueError(f"shapes: image_size: expected sides of 16 pixels or more; got {tuple(image_size)}")
        if not 0 < min_side <= max_side <= 1:
            raise ValueError(f"shapes: expected 0 < min_side <= max_side <= 1; got {min_side} and {max_side}")
        self._seed = seed
        self._size = image_size[0], image_size[1]
        self._max_objects = max_objects
        self._sides = (min_side, max_side)
        self._class_colors = class_colors
        super().__init__(self._ground_truth(num_images), None)

    def open_image(self, index: int) -> np.ndarray:
        """The picture ``(H, W, 3)`` uint8 RGB, drawn now."""
        shapes, noise_bits, rng = self._plan(self.image_id(index) - 1)
        canvas = _draw_ground(*self._size, rng)
        for shape in shapes:
            _draw_shape(canvas, shape, rng, CLASS_COLORS[shape.label - 1] if self._class_colors else None)
        noise = rng.integers(0, 256, canvas.shape, dtype=np.uint8) >> noise_bits
        return cv2.add(canvas, noise, dst=canvas)

    def _plan(self, place: int) -> tuple[list[_Shape], int, np.random.Generator]:
        """The shapes of a picture, how weak its noise is, and the generator that draws it."""
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, place]))
        height, width = self._size
        shapes: list[_Shape] = []
        noise_bits = int(rng.integers(3, 7))
        placed = np.empty((0, 4))
        for _ in range(int(rng.integers(1, self._max_objects + 1))):
            label, side, turn, x, y = rng.random(5)
            low, high = (limit * min(height, width) for limit in self._sides)
            outline = _outline(int(label * len(SHAPES)), turn * 2 * np.pi) * (low * (high / low) ** side / 2)
            outline += [x * width, y * height]
            whole = np.concatenate([outline.min(axis=0), outline.max(axis=0)])
            box = np.clip(whole, 0, [width, height, width, height])
            if _area(box) < _MIN_INSIDE * _area(whole) or _area(box) < 16:
                continue
            common = np.minimum(placed[:, 2:], box[2:]) - np.maximum(placed[:, :2], box[:2])
            covered = np.clip(common, 0, None).prod(axis=1) / np.minimum(_area(placed.T), _area(box))
            if (covered > _MAX_COVERED).any():
                continue
            placed = np.concatenate([placed, box[None]])
            shapes.append(_Shape(int(label * len(SHAPES)) + 1, outline, box))
        if not shapes:  # an unlucky draw: one shape in the middle
            outline = _outline(0, 0.0) * (self._sides[1] * min(height, width) / 2) + [width / 2, height / 2]
            box = np.concatenate([outline.min(axis=0), outline.max(axis=0)])
            shapes.append(_Shape(1, outline, box))
        return shapes, noise_bits, rng

    def _ground_truth(self, num_images: int) -> GroundTruth:
        images = []
        for place in range(num_images):
            name = f"shapes_{self._seed}_{place}.png"
            boxes = [AnnotatedBox(name, SHAPES[shape.label - 1], shape.box) for shape in self._plan(place)[0]]
            images.append(AnnotatedImage(place + 1, Path(name), self._size, boxes))
        return table_of_images(images, SHAPES, Problems("error", where="shapes"))


@dataclass(frozen=True)
class _Shape:
    label: int
    outline: np.ndarray  # (n, 2) xy, pixels
    box: np.ndarray  # (4,) xyxy, cut to the image


def _outline(kind: int, turn: float) -> np.ndarray:
    """The corners ``(n, 2)`` of a shape of radius 1 around the origin, turned by so many radians."""
    match SHAPES[kind]:
        case "circle":
            corners, radius = 48, np.ones(48)
        case "square":
            corners, radius = 4, np.ones(4)
        case "triangle":
            corners, radius = 3, np.ones(3)
        case "star":
            corners, radius = 10, np.tile([1, 0.42], 5)
        case _:
            arm = 0.3
            x = np.array([1, 1, arm, arm, -arm, -arm, -1, -1, -arm, -arm, arm, arm])
            y = np.array([-arm, arm, arm, 1, 1, arm, arm, -arm, -arm, -1, -1, -arm])
            cos, sin = np.cos(turn), np.sin(turn)
            return np.stack([x * cos - y * sin, x * sin + y * cos], axis=1) / np.hypot(1, arm)
    angles = turn + np.arange(corners) * (2 * np.pi / corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None]


def _draw_ground(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A soft colour gradient, blotches and a few lines, none of them a shape."""
    canvas: np.ndarray = np.zeros((height, width, 3), np.uint8)
    for cells, strength in ((3, 0.55), (12, 0.3)):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        canvas = cv2.addWeighted(canvas, 1.0, smooth, strength, 0.0, dst=canvas)
    for _ in range(int(rng.integers(0, 6))):
        (x0, x1), (y0, y1) = rng.integers(0, width, 2).tolist(), rng.integers(0, height, 2).tolist()
        colour = rng.integers(0, 256, 3).tolist()
        cv2.line(canvas, (x0, y0), (x1, y1), colour, int(rng.integers(1, 4)), cv2.LINE_AA)
    return canvas


def _draw_shape(
    canvas: np.ndarray, shape: _Shape, rng: np.random.Generator, class_color: tuple[int, int, int] | None = None
) -> None:
    colour = _contrasting_colour(canvas, shape, rng)
    if class_color is not None:
        colour = np.clip(class_color + rng.integers(-_COLOR_JITTER, _COLOR_JITTER + 1, 3), 0, 255)
    # OpenCV's coordinates are pixel centres, the outline's are edges.
    points = np.rint((shape.outline - 0.5) * 2**_FIXED_POINT_BITS).astype(np.int32)
    cv2.fillPoly(canvas, [points], colour.tolist(), cv2.LINE_AA, _FIXED_POINT_BITS)
    if rng.random() < 0.5:
        rim = rng.integers(0, 256, 3).tolist()
        cv2.polylines(canvas, [points], True, rim, 1, cv2.LINE_AA, _FIXED_POINT_BITS)


def _contrasting_colour(canvas: np.ndarray, shape: _Shape, rng: np.random.Generator) -> np.ndarray:
    left, top, right, bottom = shape.box
    ground = canvas[min(int(top + bottom) // 2, len(canvas) - 1), min(int(left + right) // 2, canvas.shape[1] - 1)]
    colour = rng.integers(0, 256, 3)
    if np.abs(colour - ground).sum() < _MIN_CONTRAST:
        colour = 255 - colour
        if np.abs(colour - ground).sum() < _MIN_CONTRAST:
            colour = (colour + 128) % 256
    return colour


def _area(boxes: np.ndarray) -> np.ndarray:
    """Areas of boxes whose four coordinates come first."""
    return (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])
