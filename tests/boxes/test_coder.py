"""The box coder against the formula, number by number."""

import math

import pytest
import torch

from ssdnorm import BoxCoder, make_default_boxes


def random_boxes(count: int) -> torch.Tensor:
    corner = torch.rand(count, 2) * 0.5
    return torch.cat((corner, corner + 0.05 + torch.rand(count, 2) * 0.4), dim=1)


def test_encode_follows_the_formula_offset_by_offset():
    default_box, box = (0.5, 0.4, 0.2, 0.3), (0.35, 0.3, 0.75, 0.45)
    locs = BoxCoder((0.1, 0.2, 0.3, 0.4)).encode(torch.tensor([box]), torch.tensor([default_box]))[0].tolist()
    assert locs == pytest.approx(
        [
            (0.55 - 0.5) / 0.2 / 0.1,
            (0.375 - 0.4) / 0.3 / 0.2,
            math.log(0.4 / 0.2) / 0.3,
            math.log(0.15 / 0.3) / 0.4,
        ],
        rel=1e-5,
    )


def test_decode_undoes_encode():
    torch.manual_seed(0)
    default_boxes, boxes = make_default_boxes("ssd300_voc"), random_boxes(8732)
    torch.testing.assert_close(
        BoxCoder().decode(BoxCoder().encode(boxes, default_boxes), default_boxes), boxes, rtol=1e-4, atol=1e-5
    )


def test_wild_offsets_decode_to_finite_boxes():
    boxes = BoxCoder().decode(torch.full((1, 4), 1e4), torch.tensor([[0.5, 0.5, 0.1, 0.1]]))
    assert boxes.isfinite().all()


def test_variances_must_be_four_positive_numbers():
    with pytest.raises(ValueError, match=r"variances must be four numbers above 0; got \(0.1, 0.1, 0.2\)"):
        BoxCoder((0.1, 0.1, 0.2))
