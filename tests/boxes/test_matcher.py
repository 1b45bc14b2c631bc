"""The matcher against a loop that follows its words."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from ssdnorm import make_default_boxes, match_default_boxes
from ssdnorm.boxes.matcher import cxcywh_to_xyxy, pairwise_iou
from ssdnorm.boxes.waiting import as_on_a_gpu

DEFAULT_BOXES = make_default_boxes("ssd300_voc")


def random_truths(num_images: int, num_truths: int, seed: int, smallest: float = 0.02) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(num_images, num_truths, 2, generator=generator) * 0.6
    return torch.cat(
        (corner, corner + smallest + torch.rand(num_images, num_truths, 2, generator=generator) * 0.35), dim=2
    )


def match_one_by_one(boxes: torch.Tensor, default_boxes: torch.Tensor, threshold: float) -> list[int]:
    """Rule 1, then Caffe's greedy rule 2: again and again the largest IoU among those without a partner."""
    iou = pairwise_iou(boxes[None], cxcywh_to_xyxy(default_boxes))[0]
    matches = [int(iou[:, k].argmax()) if iou[:, k].max() >= threshold else -1 for k in range(iou.shape[1])]
    free = iou.clone()
    for _ in range(len(boxes)):
        g, k = divmod(int(free.argmax()), iou.shape[1])
        matches[k] = g
        free[g], free[:, k] = -1, -1
    return matches


@pytest.mark.parametrize("path", [nullcontext, as_on_a_gpu])
@pytest.mark.parametrize("seed", range(6))
def test_matches_equal_those_of_the_loop(seed, path):
    boxes = random_truths(1, 7, seed)
    with path():
        got = match_default_boxes(boxes, torch.ones(1, 7, dtype=torch.int64), DEFAULT_BOXES)[0]
    assert got.tolist() == match_one_by_one(boxes[0], DEFAULT_BOXES, 0.5)


def test_iou_equals_torchvisions():
    boxes = random_truths(2, 5, 0)
    for image in range(2):
        theirs = box_iou(boxes[image], cxcywh_to_xyxy(DEFAULT_BOXES))
        torch.testing.assert_close(
            pairwise_iou(boxes, cxcywh_to_xyxy(DEFAULT_BOXES))[image], theirs, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("seed", range(3))
def test_matching_as_on_a_gpu_gives_the_same_among_crowds_of_tiny_objects(seed):
    crowd = 0.5 + 0.02 * random_truths(3, 4, seed)  # four objects inside the same few default boxes, one of them twice
    boxes = torch.cat((crowd, random_truths(3, 6, seed), crowd[:, :1]), dim=1)
    labels = torch.ones(3, 11, dtype=torch.int64)
    labels[1, 3:7], labels[2] = 0, 0
    expected = match_default_boxes(boxes, labels, DEFAULT_BOXES)
    with as_on_a_gpu():
        assert torch.equal(match_default_boxes(boxes, labels, DEFAULT_BOXES), expected)
    assert set(expected[0].tolist()) == set(range(-1, 11))


@pytest.mark.parametrize("path", [nullcontext, as_on_a_gpu])
@given(count=st.integers(1, 30), copies=st.integers(1, 8), seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_every_ground_truth_keeps_a_default_box_even_among_copies_of_itself(path, count, copies, seed):
    boxes = random_truths(1, count, seed, smallest=0.005).repeat_interleave(copies, dim=1)
    labels = torch.ones(1, count * copies, dtype=torch.int64)
    with path():
        matches = match_default_boxes(boxes, labels, DEFAULT_BOXES)
    assert set(matches[0].tolist()) - {-1} == set(range(count * copies))


@pytest.mark.parametrize("copies", [5, 20])
def test_a_chain_longer_than_the_rounds_of_a_gpu_changes_only_who_was_turned_down_in_all(copies):
    boxes, labels = torch.tensor([0.31, 0.22, 0.55, 0.61]).expand(1, copies, 4), torch.ones(1, copies).long()
    expected = match_default_boxes(boxes, labels, DEFAULT_BOXES, iou_threshold=1.0)[0]
    with as_on_a_gpu():
        got = match_default_boxes(boxes, labels, DEFAULT_BOXES, iou_threshold=1.0)[0]
    for truth in range(copies):
        (place,) = (got == truth).nonzero().flatten().tolist()
        assert truth >= 5 or expected[place] == truth
    assert torch.equal(got, expected) == (copies == 5)


def test_two_ground_truths_after_one_box_share_out_the_two_best():
    boxes = torch.tensor(
        [[[0.1, 0.1, 0.2, 0.2], [0.1, 0.1, 0.2, 0.21]]]
    )  # both like the square of 30 pixels at (36, 36)
    matches = match_default_boxes(boxes, torch.tensor([[3, 4]]), DEFAULT_BOXES, iou_threshold=1.0)[0]
    first, second = ((matches == g).nonzero().flatten().tolist() for g in (0, 1))
    iou = pairwise_iou(boxes, cxcywh_to_xyxy(DEFAULT_BOXES))[0]
    assert first == [int(iou[0].argmax())]
    assert second == [int(iou[1].masked_fill(torch.arange(8732) == first[0], -1).argmax())]
    assert iou[0].argmax() == iou[1].argmax()


def test_padding_rows_match_nothing_and_change_nothing():
    boxes = random_truths(1, 4, 3)
    alone = match_default_boxes(boxes[:, :2], torch.tensor([[5, 6]]), DEFAULT_BOXES)
    padded = match_default_boxes(boxes, torch.tensor([[5, 6, 0, 0]]), DEFAULT_BOXES)
    assert torch.equal(alone, padded)


def test_images_of_a_batch_do_not_influence_each_other():
    boxes = random_truths(3, 5, 9)
    labels = torch.tensor([[1, 2, 3, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    together = match_default_boxes(boxes, labels, DEFAULT_BOXES)
    for image in range(3):
        assert torch.equal(
            together[image], match_default_boxes(boxes[image, None], labels[image, None], DEFAULT_BOXES)[0]
        )
    assert (together[1] == -1).all()


def test_without_ground_truth_all_is_background():
    assert (match_default_boxes(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), DEFAULT_BOXES) == -1).all()


def test_a_box_as_good_as_another_goes_to_the_earlier_ground_truth():
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]]])
    default_boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.3, 0.3, 0.5, 0.5], [0.9, 0.9, 0.1, 0.1]])
    assert match_default_boxes(boxes, torch.tensor([[1, 1]]), default_boxes).tolist() == [[0, 1, -1]]
