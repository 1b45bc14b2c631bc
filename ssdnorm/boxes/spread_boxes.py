"""This file is about spreading default boxes over other grids than those of the paper's networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ssdnorm.boxes.default_boxes import DefaultBoxSpec


def spread_default_boxes(
    image_size: int,
    grid_sizes: Sequence[int] | Mapping[str, tuple[int, int]],
    *,
    min_scale: float = 0.2,
    max_scale: float = 0.9,
    first_scale: float | None = None,
    aspect_ratios: Sequence[Sequence[float]] | None = None,
    steps: Sequence[float] | None = None,
) -> DefaultBoxSpec:
    r"""Default boxes for any square grids, with sizes spread evenly as in the paper.

    .. math:: s_k = s_{min} + \frac{s_{max} - s_{min}}{m - 1} (k - 1) \qquad k = 1 \ldots m

    of the image's side; the second square of a tap is the geometric mean with the next tap's size.

    Args:
        image_size: side of the network's input, pixels.
        grid_sizes: cells along a side of each tap, as numbers or as ``tap_grids`` gives them.
        min_scale, max_scale: sizes on the first and the last tap, as shares of the image's side.
        first_scale: size on the first tap alone, with min_scale on the second: the paper's exception for conv4_3.
        aspect_ratios: for each tap; by default 2 and 3, as on most of the paper's taps.
        steps: distance between cells, pixels; by default ``image_size / grid``, so that the cells cover the image.

    Raises:
        ValueError: a grid that is not square, scales that do not rise, or entries that are not one per tap.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.2, equation 4, and section 3.1 for the first tap.

    Example:
        >>> spread_default_boxes(320, (40, 20, 10)).min_sizes
        (64.0, 176.0, 288.0)
    """
    if isinstance(grid_sizes, Mapping):
        for name, (height, width) in grid_sizes.items():
            if height != width:
                raise ValueError(f"spread_default_boxes: {name}: the grid must be square; got {height}×{width}")
        grid_sizes = [height for height, _ in grid_sizes.values()]
    lowest = min_scale if first_scale is None else first_scale
    if not 0 < lowest <= min_scale <= max_scale:
        raise ValueError(
            "spread_default_boxes: scales must rise from above 0; "
            f"got first {first_scale}, min {min_scale}, max {max_scale}"
        )
    spread = len(grid_sizes) if first_scale is None else len(grid_sizes) - 1
    rise = (max_scale - min_scale) / max(1, spread - 1)
    scales = [min_scale + rise * k for k in range(spread + 1)]  # one more, for the last tap's second square
    if first_scale is not None:
        scales = [first_scale, *scales]
    sizes = [round(scale * image_size, 3) for scale in scales]
    return DefaultBoxSpec(
        image_size=image_size,
        grid_sizes=tuple(grid_sizes),
        steps=tuple(image_size / grid for grid in grid_sizes) if steps is None else tuple(steps),
        min_sizes=tuple(sizes[:-1]),
        max_sizes=tuple(sizes[1:]),
        aspect_ratios=((2.0, 3.0),) * len(grid_sizes) if aspect_ratios is None else tuple(map(tuple, aspect_ratios)),
    )
