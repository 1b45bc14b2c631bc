"""Boxes on images: what is marked, where, and what stays as it was."""

import numpy as np
import pytest
from PIL import Image

from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.worst import find_outcomes
from ssdnorm.plots.boxes import DrawnBox, boxes_of_image, contact_sheet, draw_boxes, draw_scaled, draw_side_by_side
from ssdnorm.plots.colors import HIT, IGNORED, MISSED, WRONG

TRUTH = {
    "images": [{"id": 5}, {"id": 3}],
    "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
    "annotations": [
        *({"image_id": 5, "category_id": 9, "bbox": [x, 20, 30, 40]} for x in (10, 110, 210)),
        {"image_id": 5, "category_id": 4, "bbox": [310, 20, 30, 40], "iscrowd": 1},
    ],
}
FOUND = [
    {"image_id": 5, "category_id": 9, "bbox": [10, 20, 30, 40], "score": 0.9},
    {"image_id": 5, "category_id": 4, "bbox": [110, 20, 30, 40], "score": 0.8},
    {"image_id": 5, "category_id": 4, "bbox": [310, 20, 30, 40], "score": 0.7},
    {"image_id": 3, "category_id": 4, "bbox": [0, 0, 5, 5], "score": 0.6},
]


def test_a_box_is_outlined_in_its_labels_colour_and_the_rest_stays():
    image = np.full((200, 300, 3), 100, np.uint8)
    picture = np.asarray(draw_boxes(image, [(50, 60, 150, 160)], ["dog 0.90"], [2]))
    outline = picture[110, 50]
    assert outline.tolist() != [100, 100, 100]
    assert picture[110, 149].tolist() == outline.tolist()
    assert (picture[110, 60:140] == 100).all()
    assert (picture[:, 200:] == 100).all()
    assert (image == 100).all()
    other = np.asarray(draw_boxes(image, [(50, 60, 150, 160)], ["cat 0.90"], [3]))
    assert other[110, 50].tolist() != outline.tolist()


def test_the_first_box_lies_on_top():
    image, box = np.zeros((50, 50, 3), np.uint8), (10, 10, 40, 40)
    alone, first, last = (np.asarray(draw_boxes(image, [box] * len(labels), [""] * len(labels), labels))
                          for labels in ([1], [1, 2], [2, 1]))  # fmt: skip
    assert np.array_equal(first, alone)
    assert not np.array_equal(last, alone)


def test_captions_stay_inside_the_picture():
    image = np.zeros((100, 100, 3), np.uint8)
    picture = np.asarray(draw_boxes(image, [(90, 0, 100, 10), (0, 95, 5, 100)], ["far right", "bottom"], [1, 2]))
    assert picture.shape == image.shape
    assert (picture[:30, 40:89] > 0).any()  # moved to the left of its box


def test_without_boxes_the_picture_is_the_image():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(draw_boxes(image, [], [], [])), image)


def test_a_sheet_shows_all_pictures_in_rows():
    pictures = [draw_boxes(np.full((60, 80, 3), 10 * i, np.uint8), [], [], []) for i in range(1, 6)]
    sheet = np.asarray(contact_sheet(pictures, columns=2, side=80))
    assert sheet.shape == (3 * 68, 2 * 88, 3)
    assert [int(sheet[r * 68 + 5, c * 88 + 5, 0]) for r in range(3) for c in range(2)] == [10, 20, 30, 40, 50, 255]


def test_ground_truth_is_drawn_on_the_left_and_detections_on_the_right():
    image = np.full((480, 640, 3), 200, np.uint8)
    sheet = np.asarray(draw_side_by_side(image, [DrawnBox((100, 100, 200, 200), "dog", "#ff0000")], [], title="x"))
    red, bar = np.argwhere((sheet == (255, 0, 0)).all(-1)), sheet.shape[0] - 480
    assert (red[:, 1].min(), *red.max(axis=0)) == (100, 199 + bar, 199)
    sheet = np.asarray(draw_side_by_side(image, [], [DrawnBox((100, 100, 200, 200), "dog", "#ff0000")]))
    assert np.argwhere((sheet == (255, 0, 0)).all(-1))[:, 1].min() > 640


def test_a_caption_is_whole_inside_the_picture_and_above_later_boxes():
    image = np.full((480, 640, 3), 200, np.uint8)
    above, across = DrawnBox((100, -30, 200, 200), "dog", "#ff0000"), DrawnBox((90, 3, 300, 8), "", "#0000ff")
    sheet = np.asarray(draw_side_by_side(image, [above, across], [], title="a title takes a line of its own"))
    plain = np.asarray(draw_side_by_side(image, [], []))
    bar = sheet.shape[0] - 480
    assert bar == 2 * (plain.shape[0] - 480)
    red = (sheet[bar:, :640] == (255, 0, 0)).all(-1)
    assert red[0, 100:110].all()  # the caption's plate starts at the upper edge, though its box starts above it
    assert not (sheet[bar : bar + 12, 102:110] == (0, 0, 255)).all(-1).any()


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 3)])
def test_small_and_grey_images_are_enlarged_and_boxes_with_them(shape):
    sheet = draw_side_by_side(np.zeros(shape, np.uint8), [DrawnBox((-5, 0, 500, 59), "far out", "#00ff00")], [])
    assert sheet.mode == "RGB"
    assert sheet.height >= 480


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros(4, np.uint8)])
def test_another_shape_or_type_is_refused(image):
    with pytest.raises(ValueError, match=r"draw_side_by_side: image: got .*, allowed: uint8 \(H, W, 3\)"):
        draw_side_by_side(image, [], [])


def test_boxes_carry_the_colour_of_what_they_are():
    here, seen = boxes_of_image(find_outcomes(evaluate_coco(TRUTH, FOUND), min_score=0.0), 1)  # ids are sorted
    missed, wrong = ("dog missed", MISSED), ("cat 0.80 wrong", WRONG)
    assert [(box.caption, box.color) for box in here] == [("dog", HIT), missed, missed, ("cat crowd", IGNORED)]
    assert [(box.caption, box.color) for box in seen] == [("cat 0.70 ignored", IGNORED), wrong, ("dog 0.90", HIT)]
    assert here[0].box_px == (10, 20, 40, 60)


def test_a_scaled_picture_has_its_boxes_scaled_and_its_marks_as_large_as_asked_for():
    image = Image.fromarray(np.full((200, 400, 3), 100, np.uint8))
    box = DrawnBox((40, 80, 120, 160), "", "#ff0000")
    for mark_scale, width in ((1.0, 2), (3.0, 6)):
        picture = np.asarray(draw_scaled(image, [box], 2, mark_scale=mark_scale))
        assert picture.shape == (400, 800, 3)
        red = (picture == (255, 0, 0)).all(-1)
        assert np.flatnonzero(red[240]).tolist() == [*range(80, 80 + width), *range(240 - width, 240)]
    assert (np.asarray(image) == 100).all()


def test_a_box_without_a_caption_has_no_plate():
    image = Image.new("RGB", (200, 200))
    lines = (np.asarray(draw_scaled(image, [DrawnBox((50, 50, 150, 150), "", "#ff0000")])) == (255, 0, 0)).all(-1)
    assert not lines[:50].any()
    plate = (np.asarray(draw_scaled(image, [DrawnBox((50, 50, 150, 150), "dog", "#ff0000")])) == (255, 0, 0)).all(-1)
    assert plate[:50].any()
