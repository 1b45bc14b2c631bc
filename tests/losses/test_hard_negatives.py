"""Hard negative mining against sorting each image by hand."""

import pytest
import torch

from ssdnorm.boxes.waiting import as_on_a_gpu
from ssdnorm.losses.hard_negatives import hard_negative_mask


def test_the_largest_losses_of_each_image_are_chosen_three_for_each_match():
    torch.manual_seed(0)
    loss, matched = torch.rand(4, 50), torch.rand(4, 50) < torch.tensor([[0.02], [0.1], [0.2], [0.0]])
    matched[3] = False
    mask = hard_negative_mask(loss, matched, ratio=3)
    for image in range(4):
        background = [k for k in range(50) if not matched[image, k]]
        wanted = min(3 * int(matched[image].sum()), len(background))
        best = sorted(background, key=lambda k: -loss[image, k].item())[:wanted]
        assert mask[image].nonzero().flatten().tolist() == sorted(best)


def test_among_equal_losses_the_earlier_boxes_are_chosen():
    matched = torch.tensor([[False, True, False, False, False, False]])
    assert hard_negative_mask(torch.ones(1, 6), matched, ratio=2).tolist() == [[True, False, True, False, False, False]]


def test_an_image_without_matches_gets_no_negatives():
    assert not hard_negative_mask(torch.rand(2, 9), torch.zeros(2, 9, dtype=torch.bool)).any()


def test_where_background_is_short_all_of_it_is_chosen():
    matched = torch.tensor([[True, True, False]])
    assert hard_negative_mask(torch.rand(1, 3), matched, ratio=3).tolist() == [[False, False, True]]


def test_a_fractional_ratio_is_rounded_down():
    matched = torch.zeros(1, 10, dtype=torch.bool)
    matched[0, :3] = True
    assert hard_negative_mask(torch.rand(1, 10), matched, ratio=0.5).sum() == 1


@pytest.mark.parametrize("ratio", [0, 1.5, 3, 40])
def test_sorting_as_on_a_gpu_chooses_the_same(ratio):
    torch.manual_seed(1)
    loss, matched = torch.randint(0, 9, (3, 40)).float(), torch.rand(3, 40) < 0.1
    expected = hard_negative_mask(loss, matched, ratio=ratio)
    with as_on_a_gpu():
        assert torch.equal(hard_negative_mask(loss, matched, ratio=ratio), expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_is_chosen_as_on_a_gpu(value):
    loss, matched = torch.rand(2, 30), torch.zeros(2, 30, dtype=torch.bool)
    matched[:, :3] = True
    loss[1, 20] = value
    chosen = hard_negative_mask(loss, matched)
    assert chosen.sum(dim=1).tolist() == [9, 9]
    assert chosen[1, 20]
    with as_on_a_gpu():
        assert hard_negative_mask(loss, matched)[1, 20]


def test_the_number_is_rounded_as_on_a_gpu():
    loss, matched = torch.rand(1, 400), torch.zeros(1, 400, dtype=torch.bool)
    matched[:, :100] = True
    for ratio in (0.29, 0.57, 0.58, 1.13, 2.01, 1e12):
        chosen = hard_negative_mask(loss, matched, ratio=ratio)
        with as_on_a_gpu():
            assert torch.equal(hard_negative_mask(loss, matched, ratio=ratio), chosen), ratio
