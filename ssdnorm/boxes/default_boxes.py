"""Make default boxes: the K fixed boxes to which an SSD's predictions are offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from math import sqrt
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from ssdnorm.messages import shown, unknown_name
from ssdnorm.resize import ImageSize, height_and_width


@dataclass(frozen=True)
class DefaultBoxSpec:
    """The numbers from which default boxes are made, one entry per tap.

    Args:
        image_size: of the network's input, pixels: the side of a square, or (height, width).
        grid_sizes: cells along a side of each tap, or (rows, columns).
        steps: distance between two cells' centres, pixels of the input, or (down, across).
        min_sizes: side of the small square box, pixels.
        max_sizes: the second square box has the side ``sqrt(min_size * max_size)``, pixels.
        aspect_ratios: width / height of the further boxes; each brings its reciprocal along.
        clip: what is limited to [0, 1]: ``none`` (Caffe), ``size``, width and height (torchvision), or ``all``, the
            centre too (amdegroot, lufficc).

    Raises:
        ValueError: if the entries are not of one length, or a size, step or ratio is not above 0.
    """

    image_size: ImageSize
    grid_sizes: tuple[int | tuple[int, int], ...]
    steps: tuple[float | tuple[float, float], ...]
    min_sizes: tuple[float, ...]
    max_sizes: tuple[float, ...]
    aspect_ratios: tuple[tuple[float, ...], ...]
    clip: Literal["none", "size", "all"] = "none"

    def __post_init__(self) -> None:
        if self.clip not in ("none", "size", "all"):
            raise ValueError(f"DefaultBoxSpec: clip must be none, size or all; got {self.clip!r}")
        per_tap = ("grid_sizes", "steps", "min_sizes", "max_sizes", "aspect_ratios")
        lengths = {name: len(getattr(self, name)) for name in per_tap}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"DefaultBoxSpec: one entry per tap is needed everywhere; got {lengths}")
        for name in ("steps", "min_sizes", "max_sizes", "aspect_ratios"):
            for value in getattr(self, name):
                if not all(number > 0 for number in (value if isinstance(value, tuple) else (value,))):
                    raise ValueError(f"DefaultBoxSpec: {name}: must be above 0; got {shown(value)}")

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of cells of each tap."""
        return tuple(height_and_width(grid, where="grid_sizes") for grid in self.grid_sizes)

    @property
    def boxes_per_cell(self) -> tuple[int, ...]:
        """Boxes at each cell of each tap: two squares, and two for each aspect ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.aspect_ratios)

    @property
    def num_boxes(self) -> int:
        """K, the boxes of all taps."""
        return sum(rows * columns * n for (rows, columns), n in zip(self.grids, self.boxes_per_cell, strict=True))


def paper_aspect_ratios(num_taps: int) -> tuple[tuple[float, ...], ...]:
    """The paper's aspect ratios by tap: 2 and 3, on the first tap and the last two 2 alone."""
    return ((2,), *[(2, 3)] * (num_taps - 3), (2,), (2,))[:num_taps]


def _spec(image_size: int, *sizes: float) -> DefaultBoxSpec:
    """One of the authors' networks; each tap's second square lies between its size and the next."""
    grids, steps = {
        300: ((38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300)),
        512: ((64, 32, 16, 8, 4, 2, 1), (8, 16, 32, 64, 128, 256, 512)),
    }[image_size]
    return DefaultBoxSpec(image_size, grids, steps, sizes[:-1], sizes[1:], paper_aspect_ratios(len(grids)))


# Sizes in pixels of the input, from examples/ssd/ssd_pascal.py, ssd_coco.py and their 512 variants (weiliu89/caffe,
# branch ssd). Caffe's prior box layer cuts the 512 sizes to integers; they are kept exact here, as in lufficc/SSD.
DEFAULT_BOXES: Mapping[str, DefaultBoxSpec] = MappingProxyType(
    {
        "ssd300_voc": _spec(300, 30, 60, 111, 162, 213, 264, 315),
        "ssd300_coco": _spec(300, 21, 45, 99, 153, 207, 261, 315),
        "ssd512_voc": _spec(512, 35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6),
        "ssd512_coco": _spec(512, 20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
    }
)


def default_box_spec(spec: str | DefaultBoxSpec | Mapping[str, Any], *, where: str = "default_boxes") -> DefaultBoxSpec:
    """Look a spec up by its name, or make it from its fields; a spec is returned as it is.

    Raises:
        ValueError: if there is no such name, or a field is missing, unknown or wrong; says where, the value, and the
            choices.
    """
    if isinstance(spec, DefaultBoxSpec):
        return spec
    if isinstance(spec, Mapping):
        known = {field.name: field.default is MISSING for field in fields(DefaultBoxSpec)}  # whether it is needed
        for name in spec:
            if name not in known:
                raise ValueError(f"{where}: {unknown_name('field', name, known)}")
        if missing := [name for name, needed in known.items() if needed and name not in spec]:
            raise ValueError(f"{where}: {', '.join(missing)} missing; got {shown(list(spec))}")
        return DefaultBoxSpec(**{key: _as_tuple(value) for key, value in spec.items()})
    if not isinstance(spec, str) or spec not in DEFAULT_BOXES:
        raise ValueError(f"{where}: {unknown_name('default boxes', spec, DEFAULT_BOXES)}")
    return DEFAULT_BOXES[spec]


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def make_default_boxes(spec: str | DefaultBoxSpec) -> Tensor:
    r"""Default boxes of all taps, in the order of the multibox head's output.

    Taps follow each other; within a tap rows of cells from the top, cells from the left; at a cell first the square of
    side :math:`s`, then the one of side :math:`\sqrt{s\,s'}`, then for each aspect ratio :math:`a` the box of width
    :math:`s\sqrt{a}` and height :math:`s/\sqrt{a}` and its reciprocal.

    Args:
        spec: a ``DefaultBoxSpec``, or a name out of ``DEFAULT_BOXES``.

    Shape:
        output ``(K, 4)`` float32 cxcywh in [0, 1] of the input; widths and centres may leave [0, 1] unless clipped.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.2.

    Example:
        >>> make_default_boxes("ssd300_voc").shape
        torch.Size([8732, 4])
    """
    spec = default_box_spec(spec)
    taps = []
    for grid, step, small, large, ratios in zip(
        spec.grids, spec.steps, spec.min_sizes, spec.max_sizes, spec.aspect_ratios, strict=True
    ):
        shapes = [(small, small), (sqrt(small * large), sqrt(small * large))]
        for ratio in ratios:
            shapes += [(small * sqrt(ratio), small / sqrt(ratio)), (small / sqrt(ratio), small * sqrt(ratio))]
        steps = step if isinstance(step, tuple) else (step, step)
        centres = [(torch.arange(n, dtype=torch.float64) + 0.5) * by for n, by in zip(grid, steps, strict=True)]
        cy, cx = torch.meshgrid(*centres, indexing="ij")
        centre = torch.stack((cx, cy), dim=-1)[:, :, None].expand(*grid, len(shapes), 2)
        size = torch.tensor(shapes, dtype=torch.float64).expand(*grid, len(shapes), 2)
        taps.append(torch.cat((centre, size), dim=-1).reshape(-1, 4))
    height, width = height_and_width(spec.image_size)
    boxes = (torch.cat(taps) / torch.tensor([width, height, width, height])).float()
    if spec.clip == "size":
        return torch.cat((boxes[:, :2], boxes[:, 2:].clamp(0.0, 1.0)), dim=1)
    return boxes.clamp(0.0, 1.0) if spec.clip == "all" else boxes


def spread_default_boxes(
    image_size: ImageSize,
    grid_sizes: Sequence[int | tuple[int, int]] | Mapping[str, tuple[int, int]],
    *,
    min_scale: float = 0.2,
    max_scale: float = 0.9,
    first_scale: float | None = None,
    sizes: Sequence[float] | None = None,
    aspect_ratios: Sequence[Sequence[float]] | None = None,
    steps: Sequence[float | Sequence[float]] | None = None,
) -> DefaultBoxSpec:
    r"""Spread default boxes of evenly rising sizes over any grids, as in the paper.

    .. math:: s_k = s_{min} + \frac{s_{max} - s_{min}}{m - 1} (k - 1) \qquad k = 1 \ldots m

    of the image's shorter side; the second square of a tap is the geometric mean with the next tap's size.

    Args:
        image_size: of the network's input, pixels: the side of a square, or (height, width).
        grid_sizes: cells of each tap, along a side or (rows, columns), or as ``tap_grids`` gives them.
        min_scale, max_scale: sizes on the first and the last tap, as shares of the image's shorter side.
        first_scale: size on the first tap alone, with min_scale on the second: the paper's exception for conv4_3.
        sizes: the sizes themselves, pixels of the input, in place of the scales: one per tap, and one more.
        aspect_ratios: for each tap; by default 2 and 3, as on most of the paper's taps.
        steps: distance between cells, pixels, or (down, across); by default image over grid, so that the cells cover
            the image.

    Raises:
        ValueError: scales or sizes that do not rise, or entries that are not one per tap.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.2, equation 4, and section 3.1 for the first tap.

    Example:
        >>> spread_default_boxes(320, (40, 20, 10)).min_sizes
        (64.0, 176.0, 288.0)
    """
    height, width = height_and_width(image_size)
    cells = grid_sizes.values() if isinstance(grid_sizes, Mapping) else grid_sizes
    grids = [height_and_width(grid, where="grid_sizes") for grid in cells]
    if sizes is None:
        lowest = min_scale if first_scale is None else first_scale
        if not 0 < lowest <= min_scale <= max_scale:
            raise ValueError(
                "spread_default_boxes: scales must rise from above 0; "
                f"got first {first_scale}, min {min_scale}, max {max_scale}"
            )
        spread = len(grids) if first_scale is None else len(grids) - 1
        rise = (max_scale - min_scale) / max(1, spread - 1)
        scales = [min_scale + rise * k for k in range(spread + 1)]  # one more, for the last tap's second square
        if first_scale is not None:
            scales = [first_scale, *scales]
        sizes = [round(scale * min(height, width), 3) for scale in scales]
    elif len(sizes) != len(grids) + 1 or list(sizes) != sorted(sizes) or not sizes[0] > 0:
        raise ValueError(
            f"sizes: expected {len(grids) + 1} rising numbers, one per tap and one more; got {shown(list(sizes))}"
        )
    if aspect_ratios is None:
        aspect_ratios = ((2.0, 3.0),) * len(grids)
    if steps is None:
        steps = [(height / rows, width / columns) for rows, columns in grids]
    for name, values in (("aspect_ratios", aspect_ratios), ("steps", steps)):
        if len(values) != len(grids):
            raise ValueError(f"{name}: expected {len(grids)} entries, one per tap; got {len(values)}")
    return DefaultBoxSpec(
        image_size=_one_if_equal((height, width)),
        grid_sizes=tuple(map(_one_if_equal, grids)),
        steps=tuple(_one_if_equal(step) if isinstance(step, Sequence) else step for step in steps),
        min_sizes=tuple(sizes[:-1]),
        max_sizes=tuple(sizes[1:]),
        aspect_ratios=tuple(map(tuple, aspect_ratios)),
    )


def _one_if_equal(pair: Sequence[Any]) -> Any:
    return pair[0] if pair[0] == pair[1] else tuple(pair)
