"""Default boxes against the numbers of Caffe's scripts, and by hand; models/foreign has torchvision's."""

from math import sqrt

import pytest
import torch

from ssdnorm import DEFAULT_BOXES, DefaultBoxSpec, make_default_boxes
from ssdnorm.boxes.default_boxes import default_box_spec, spread_default_boxes

# boxes before each tap, and the sides of its small square, pixels of the input; the last is the last large one
STARTS = {300: (0, 5776, 7942, 8542, 8692, 8728), 512: (0, 16384, 22528, 24064, 24448, 24544, 24560)}
EXPECTED = {
    "ssd300_voc": (300, (30, 60, 111, 162, 213, 264, 315)),
    "ssd300_coco": (300, (21, 45, 99, 153, 207, 261, 315)),
    "ssd512_voc": (512, (35.84, 76.8, 153.6, 230.4, 307.2, 384, 460.8, 537.6)),
    "ssd512_coco": (512, (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)),
}


@pytest.mark.parametrize(
    ("name", "count"), [("ssd300_voc", 8732), ("ssd300_coco", 8732), ("ssd512_voc", 24564), ("ssd512_coco", 24564)]
)
def test_the_number_of_boxes_is_the_published_one(name, count):
    assert make_default_boxes(name).shape == (count, 4)
    assert DEFAULT_BOXES[name].num_boxes == count


@pytest.mark.parametrize("name", EXPECTED)
def test_each_tap_starts_with_its_two_squares_in_the_first_cell(name):
    size, sides = EXPECTED[name]
    boxes, steps = make_default_boxes(name) * size, DEFAULT_BOXES[name].steps
    for start, small, large, step in zip(STARTS[size], sides[:-1], sides[1:], steps, strict=True):
        side = sqrt(small * large)
        expected = torch.tensor([[step / 2, step / 2, small, small], [step / 2, step / 2, side, side]])
        torch.testing.assert_close(boxes[start : start + 2], expected, rtol=1e-5, atol=1e-4)


def test_a_cell_lists_squares_then_each_aspect_ratio_and_its_reciprocal():
    cell = make_default_boxes("ssd300_voc")[5776:5782] * 300  # the first cell of fc7: six boxes
    ratios = (cell[:, 2] / cell[:, 3]).tolist()
    assert ratios == pytest.approx([1, 1, 2, 1 / 2, 3, 1 / 3], rel=1e-5)
    areas = (cell[:, 2] * cell[:, 3]).tolist()
    assert areas == pytest.approx([3600, 60 * 111, 3600, 3600, 3600, 3600], rel=1e-5)


def test_cells_run_from_left_to_right_and_then_down():
    boxes = make_default_boxes("ssd300_voc") * 300
    assert boxes[4, :2].tolist() == pytest.approx([12, 4], rel=1e-5)  # second cell: one step to the right
    assert boxes[4 * 38, :2].tolist() == pytest.approx([4, 12], rel=1e-5)  # 39th cell: one step down


def test_clipping_changes_only_what_leaves_the_unit_square():
    spec = DEFAULT_BOXES["ssd300_voc"]
    free = make_default_boxes(spec)
    size, everything = (make_default_boxes(DefaultBoxSpec(**{**vars(spec), "clip": clip})) for clip in ("size", "all"))
    assert free[:, :2].max() > 1  # conv8_2's last centres: 304 pixels
    torch.testing.assert_close(everything, free.clamp(0, 1), rtol=0, atol=0)
    assert torch.equal(size[:, :2], free[:, :2])
    assert torch.equal(size[:, 2:], everything[:, 2:])


def test_boxes_of_a_rectangle_are_laid_out_per_axis():
    spec = spread_default_boxes((40, 60), [(2, 3)], sizes=(12, 27), aspect_ratios=[[4]], steps=[(10, 30)])
    boxes = make_default_boxes(spec).reshape(2, 3, 4, 4) * torch.tensor([60.0, 40, 60, 40])
    assert boxes[1, 2, 0].tolist() == pytest.approx([75, 15, 12, 12])  # third column, second row
    assert boxes[0, 1, :, 2:].flatten().tolist() == pytest.approx([12, 12, 18, 18, 24, 6, 6, 24])
    assert spread_default_boxes((40, 60), [(2, 3)], aspect_ratios=[[2]]).steps == (20.0,)  # image over grid


SPEC = vars(spread_default_boxes(64, (8,)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("ssd300-voc", r"here: unknown default boxes 'ssd300-voc'.*Did you mean 'ssd300_voc'"),
        (["ssd300_voc"], r"here: unknown default boxes \['ssd300_voc'\]"),
        ({"gridsizes": [38]}, r"here: unknown field 'gridsizes'; .* Did you mean 'grid_sizes'\?"),
        ({"image_size": 300}, r"here: grid_sizes, steps, .* missing; got \['image_size'\]"),
        ({**SPEC, "clip": True}, "clip must be none, size or all; got True"),
        ({**SPEC, "steps": [[8, 0]]}, r"steps: must be above 0; got \(8, 0\)"),
        ({**SPEC, "min_sizes": [-1]}, "min_sizes: must be above 0"),
        ({**SPEC, "aspect_ratios": [[2, 0]]}, "aspect_ratios: must be above 0"),
        ({**SPEC, "steps": [8, 16]}, r"one entry per tap is needed everywhere; got .*'steps': 2"),
    ],
)
def test_a_spec_that_makes_no_boxes_is_refused_with_its_field(spec, message):
    with pytest.raises(ValueError, match=message):
        default_box_spec(spec, where="here")
