"""How well default boxes cover objects, and which sizes and ratios would cover them better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ssdnorm.boxes.default_boxes import DefaultBoxSpec, make_default_boxes
from ssdnorm.resize import height_and_width

_SAMPLE = 4000  # objects that a proposal is fitted to
_RATIO_SPREAD = 1.25  # ratios nearer to 1 are covered by the squares
_FACTORS = (0.8, 0.9, 1.11, 1.25)


def shape_ious(boxes: Tensor, spec: DefaultBoxSpec) -> Tensor:
    """IoU of each box with the best-placed default box of each shape.

    Of the default boxes of one shape, the one whose cell holds the box's centre has the largest IoU, since the overlap
    along an axis falls with the distance of the centres. So one default box per shape needs to be looked at.

    Shape:
        boxes ``(N, 4)`` xyxy in [0, 1]; output ``(N, A)``, with A the boxes per cell of all taps, tap by tap.
    """
    default_boxes = make_default_boxes(spec)
    height, width = height_and_width(spec.image_size)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 * boxes.new_tensor([width, height])
    columns, start = [], 0
    for (rows, cols), step, num_shapes in zip(spec.grids, spec.steps, spec.boxes_per_cell, strict=True):
        down, across = step if isinstance(step, tuple) else (step, step)
        row = (centre[:, 1] / down).long().clamp_(0, rows - 1)
        col = (centre[:, 0] / across).long().clamp_(0, cols - 1)
        first = start + (row * cols + col) * num_shapes
        near = default_boxes[first[:, None] + torch.arange(num_shapes)]  # (N, shapes, 4)
        low, high = near[..., :2] - near[..., 2:] / 2, near[..., :2] + near[..., 2:] / 2
        sides = torch.minimum(high, boxes[:, None, 2:]) - torch.maximum(low, boxes[:, None, :2])
        inter = sides.clamp_(min=0).prod(dim=-1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1, keepdim=True)
        columns.append(inter / (area + near[..., 2:].prod(dim=-1) - inter))
        start += rows * cols * num_shapes
    return torch.cat(columns, dim=1)


def suggest_default_boxes(boxes: Tensor, labels: Tensor, spec: DefaultBoxSpec) -> DefaultBoxSpec:
    """Fit sizes and ratios to objects, for the taps and steps of a spec.

    1. An object belongs to the deepest tap whose step is at most a third of its size, as in the paper, whose sizes are
       two to four steps; a smaller one belongs to the first tap.
    2. Each tap's size and its ratios are centres of a k-means on 1 − IoU of its objects' shapes; a tap without objects
       takes a size between its neighbours'.
    3. Sizes are then varied one at a time, and a change is kept that covers more objects, or as many with larger IoU;
       every class counts the same, however few its objects are.

    Over all classes the result covers no fewer than the spec that is given; a single class may lose.

    Shape:
        boxes ``(N, 4)`` xyxy in [0, 1]; labels ``(N,)``.
    """
    if len(boxes) == 0:
        return spec
    chosen = torch.randperm(len(boxes), generator=torch.Generator().manual_seed(0))[:_SAMPLE]
    boxes, labels = boxes[chosen], labels[chosen]
    weights = 1 / labels.bincount()[labels]

    def value_of(candidate: DefaultBoxSpec) -> tuple[float, float]:
        best = shape_ious(boxes, candidate).amax(dim=1)
        return round(float(weights @ (best >= 0.5).float()), 4), round(float(weights @ best), 4)

    height, width = height_and_width(spec.image_size)
    shapes = (boxes[:, 2:] - boxes[:, :2]) * boxes.new_tensor([width, height])
    sizes = shapes.prod(dim=1).sqrt()
    steps = torch.tensor([max(step) if isinstance(step, tuple) else step for step in spec.steps])
    tap = ((sizes[:, None] >= 3 * steps).sum(dim=1) - 1).clamp_(min=0)
    old = [*spec.min_sizes, spec.max_sizes[-1]]
    fitted, ratios = [], []
    for k in range(len(old) - 1):
        own = shapes[tap == k]
        fitted.append(float(kmeans_iou(own, 1).prod(dim=1).sqrt()) if len(own) else old[k])
        ratios.append(_ratios(own, len(spec.aspect_ratios[k])) or spec.aspect_ratios[k])
    proposal = _with_sizes(spec, [*fitted, max(fitted[-1] * 1.2, old[-1])], tuple(ratios))
    mixed = _with_sizes(spec, old, tuple(ratios)), replace(proposal, aspect_ratios=spec.aspect_ratios)
    return _refine(max((proposal, spec, *mixed), key=value_of), value_of)


def kmeans_iou(shapes: Tensor, k: int, *, rounds: int = 30) -> Tensor:
    """Centres of k clusters of shapes under the distance 1 − IoU of boxes with a common centre.

    Starts at quantiles of the area, so the result depends on the shapes alone.

    Shape:
        shapes ``(N, 2)`` width and height, N ≥ 1; output ``(min(k, N), 2)``, by rising area.

    Sources:
        J. Redmon, A. Farhadi, YOLO9000 (arXiv:1612.08242), section 2, dimension clusters.
    """
    shapes = shapes[shapes.prod(dim=1).argsort()]
    k = min(k, len(shapes))
    centres = shapes[((torch.arange(k) + 0.5) * len(shapes) / k).long()]
    for _ in range(rounds):
        inter = torch.minimum(shapes[:, None], centres).prod(dim=2)
        owner = (inter / (shapes.prod(dim=1)[:, None] + centres.prod(dim=1) - inter)).argmax(dim=1)
        new = torch.stack(
            [shapes[owner == j].median(dim=0).values if (owner == j).any() else centres[j] for j in range(k)]
        )
        if torch.equal(new, centres):
            break
        centres = new
    return centres[centres.prod(dim=1).argsort()]


def _ratios(shapes: Tensor, number: int) -> tuple[float, ...]:
    """The ratios, 1 or more, around which a tap's objects lie that are not nearly square."""
    ratio = shapes[:, 0] / shapes[:, 1]
    ratio = torch.maximum(ratio, 1 / ratio)
    ratio = ratio[ratio > _RATIO_SPREAD]
    if len(ratio) < 10:
        return ()
    centres = kmeans_iou(torch.stack((ratio.sqrt(), 1 / ratio.sqrt()), dim=1), number)
    return tuple(sorted({round(float(w / h), 2) for w, h in centres}))


def _with_sizes(
    spec: DefaultBoxSpec, sizes: list[float], ratios: tuple[tuple[float, ...], ...] | None = None
) -> DefaultBoxSpec:
    """The spec with other sizes, made to rise by a tenth at least, and other ratios."""
    rising = [round(sizes[0], 1)]
    for size in sizes[1:]:
        rising.append(round(max(size, 1.1 * rising[-1]), 1))
    return replace(
        spec,
        min_sizes=tuple(rising[:-1]),
        max_sizes=tuple(rising[1:]),
        aspect_ratios=spec.aspect_ratios if ratios is None else ratios,
    )


def _refine(spec: DefaultBoxSpec, value_of: Callable[[DefaultBoxSpec], tuple[float, float]]) -> DefaultBoxSpec:
    value = value_of(spec)
    for _ in range(3):
        before = value
        for k in range(len(spec.min_sizes)):
            for factor in _FACTORS:
                sizes = [*spec.min_sizes, spec.max_sizes[-1]]
                sizes[k] *= factor
                if sizes != sorted(sizes):
                    continue
                candidate = _with_sizes(spec, sizes)
                if (new := value_of(candidate)) > value:
                    spec, value = candidate, new
        if value == before:
            break
    return spec
