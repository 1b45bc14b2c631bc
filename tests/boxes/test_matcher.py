"""The matcher against a loop that follows its rules, and its IoU against torchvision's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert, box_iou

from ssdnorm import make_default_boxes, match_default_boxes
from ssdnorm.boxes import matcher
from ssdnorm.boxes.matcher import default_box_iou

DEFAULT_BOXES = make_default_boxes("ssd300_voc")


def random_truths(num_images: int, num_truths: int, seed: int, smallest: float = 0.02) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_images, num_truths, 2, generator=generator) * 0.6
    return torch.cat(
        (corner, corner + smallest + torch.rand(num_images, num_truths, 2, generator=generator) * 0.35), dim=2
    )


def match_one_by_one(
    boxes: torch.Tensor, labels: torch.Tensor, default_boxes: torch.Tensor, threshold: float
) -> list[int]:
    """Rule 1, then Caffe's greedy rule 2: again and again the first of the largest IoUs among those without partner."""
    iou = default_box_iou(boxes, default_boxes)
    iou[labels == 0] = -1
    matches = [int(iou[:, k].argmax()) if iou[:, k].max() >= threshold else -1 for k in range(iou.shape[1])]
    while (iou >= 0).any():
        g, k = (iou == iou.max()).nonzero()[0].tolist()
        matches[k] = g
        iou[g], iou[:, k] = -1, -1
    return matches


@pytest.mark.parametrize("seed", range(4))
def test_matches_equal_those_of_the_loop(seed):
    crowd = 0.5 + 0.02 * random_truths(1, 4, seed)  # four objects inside the same few default boxes, one of them twice
    boxes, labels = torch.cat((random_truths(1, 7, seed), crowd, crowd[:, :1]), dim=1), torch.ones(1, 12).long()
    got = match_default_boxes(boxes, labels, DEFAULT_BOXES)[0]
    assert got.tolist() == match_one_by_one(boxes[0], labels[0], DEFAULT_BOXES, 0.5)
    assert set(got.tolist()) == set(range(-1, 12))


grid = st.integers(0, 4).map(lambda i: i / 8)  # few numbers: many equal IoUs, copies and pairs without overlap
sides = st.integers(1, 4).map(lambda i: i / 8)
squares = st.tuples(grid, grid, sides, sides)


@given(
    default_boxes=st.lists(squares, min_size=1, max_size=9),
    truths=st.lists(st.tuples(squares, st.integers(0, 2)), min_size=2, max_size=14).filter(lambda x: len(x) % 2 == 0),
    threshold=st.sampled_from([0.25, 0.5, 1.0]),
)
@settings(max_examples=300, deadline=None)
def test_ties_copies_padding_and_more_truths_than_boxes_are_matched_as_in_the_loop(default_boxes, truths, threshold):
    defaults = torch.tensor(default_boxes)
    boxes = torch.tensor([box for box, _ in truths]).view(2, -1, 4)  # two images
    boxes = torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), dim=2)
    labels = torch.tensor([label for _, label in truths]).view(2, -1)
    got = match_default_boxes(boxes, labels, defaults, iou_threshold=threshold)
    for image in range(2):
        assert got[image].tolist() == match_one_by_one(boxes[image], labels[image], defaults, threshold)


def test_iou_equals_torchvisions():
    boxes = random_truths(2, 5, 0)
    for image in range(2):
        theirs = box_iou(boxes[image], box_convert(DEFAULT_BOXES, "cxcywh", "xyxy"))
        torch.testing.assert_close(default_box_iou(boxes, DEFAULT_BOXES)[image], theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("copies", [2, 30])
def test_copies_of_a_ground_truth_take_its_best_boxes_in_turn(copies):
    boxes, labels = torch.tensor([0.31, 0.22, 0.55, 0.61]).expand(1, copies, 4), torch.ones(1, copies).long()
    matches = match_default_boxes(boxes, labels, DEFAULT_BOXES, iou_threshold=1.0)[0]
    best = default_box_iou(boxes[0, :1], DEFAULT_BOXES)[0].sort(descending=True, stable=True).indices[:copies]
    assert matches[best].tolist() == list(range(copies))
    assert (matches >= 0).sum() == copies


def test_images_of_a_batch_do_not_influence_each_other_however_many_are_matched_at_once(monkeypatch):
    boxes = random_truths(3, 5, 9)
    labels = torch.tensor([[1, 2, 3, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    together = match_default_boxes(boxes, labels, DEFAULT_BOXES)
    monkeypatch.setattr(matcher, "_CPU_PAIRS", 0)
    assert torch.equal(match_default_boxes(boxes, labels, DEFAULT_BOXES), together)
    assert (together[1] == -1).all()


def test_without_ground_truth_all_is_background():
    assert (match_default_boxes(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), DEFAULT_BOXES) == -1).all()
