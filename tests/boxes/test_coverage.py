"""Coverage of objects against every default box, and proposals that cover more."""

import pytest
import torch

from ssdnorm.boxes.coverage import kmeans_iou, shape_ious, suggest_default_boxes
from ssdnorm.boxes.default_boxes import DEFAULT_BOXES, DefaultBoxSpec, make_default_boxes, spread_default_boxes
from ssdnorm.boxes.matcher import default_box_iou

SPECS = {
    "ssd300": DEFAULT_BOXES["ssd300_coco"],
    "clipped": DefaultBoxSpec(**{**vars(DEFAULT_BOXES["ssd300_voc"]), "clip": "size"}),
    "rectangle": spread_default_boxes((96, 160), [(12, 20), (3, 5), (1, 3)], aspect_ratios=[[2], [2, 3], [1.5]]),
    "unequal steps": spread_default_boxes((96, 160), [(8, 20), (3, 4)], aspect_ratios=[[2], [2, 3]]),
}


def some_boxes(number: int, seed: int = 0, sides: tuple[float, float] = (0.02, 0.7)) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    size = sides[0] + (sides[1] - sides[0]) * torch.rand(number, 2, generator=draw) ** 2
    low = torch.rand(number, 2, generator=draw) * (1 - size)
    return torch.cat((low, low + size), dim=1)


@pytest.mark.parametrize("name", SPECS)
def test_the_nearest_cell_holds_the_best_default_box_of_each_shape(name):
    spec, boxes = SPECS[name], some_boxes(60)
    every = default_box_iou(boxes, make_default_boxes(spec))
    expected, start = [], 0
    for (rows, columns), shapes in zip(spec.grids, spec.boxes_per_cell, strict=True):
        size = rows * columns * shapes
        expected.append(every[:, start : start + size].view(len(boxes), -1, shapes).amax(dim=1))
        start += size
    torch.testing.assert_close(shape_ious(boxes, spec), torch.cat(expected, dim=1), rtol=1e-4, atol=1e-5)


def test_clusters_of_shapes_are_found():
    noise = 1 + 0.05 * torch.randn(300, 2, generator=torch.Generator().manual_seed(1))
    shapes = torch.tensor([[10.0, 20], [40, 40], [120, 60]]).repeat(100, 1) * noise
    torch.testing.assert_close(
        kmeans_iou(shapes, 3), torch.tensor([[10.0, 20], [40, 40], [120, 60]]), rtol=0.03, atol=0
    )
    assert kmeans_iou(shapes[:2], 5).shape == (2, 2)


def covered(boxes: torch.Tensor, spec: DefaultBoxSpec) -> float:
    return float((shape_ious(boxes, spec).amax(dim=1) >= 0.5).float().mean())


def test_a_proposal_covers_objects_that_the_given_boxes_miss_also_of_a_rare_class():
    spec, small, large = (
        DEFAULT_BOXES["ssd300_voc"],
        some_boxes(30, sides=(0.04, 0.08)),
        some_boxes(500, sides=(0.3, 0.6)),
    )
    labels = torch.cat((torch.full((30,), 2), torch.full((500,), 1)))
    new = suggest_default_boxes(torch.cat((small, large)), labels, spec)
    assert covered(small, new) > covered(small, spec) + 0.2
    assert covered(large, new) > 0.9


@pytest.mark.parametrize("boxes", [some_boxes(0), some_boxes(3), some_boxes(400, seed=3)], ids=len)
def test_a_proposal_never_covers_less_keeps_grids_and_rises(boxes):
    spec = SPECS["rectangle"]
    new = suggest_default_boxes(boxes, torch.ones(len(boxes), dtype=torch.int64), spec)
    assert (new.grid_sizes, new.steps) == (spec.grid_sizes, spec.steps)
    sizes = [*new.min_sizes, new.max_sizes[-1]]
    assert sizes == sorted(sizes)
    assert new.min_sizes[1:] == new.max_sizes[:-1]
    assert all(len(a) <= len(b) for a, b in zip(new.aspect_ratios, spec.aspect_ratios, strict=True))
    if len(boxes):
        assert covered(boxes, new) >= covered(boxes, spec)
