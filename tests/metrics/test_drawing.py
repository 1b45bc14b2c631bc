import numpy as np
import pytest

from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.drawing import GREEN, GREY, KIND_COLOURS, DrawnBox, boxes_of_image, draw_apart
from ssdnorm.metrics.errors import break_down_errors

TRUTH = {
    "images": [{"id": 5}, {"id": 3}],
    "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
    "annotations": [
        {"image_id": 5, "category_id": 9, "bbox": [10, 20, 30, 40]},
        {"image_id": 5, "category_id": 9, "bbox": [110, 20, 30, 40]},
        {"image_id": 5, "category_id": 9, "bbox": [210, 20, 30, 40]},
        {"image_id": 5, "category_id": 4, "bbox": [310, 20, 30, 40], "iscrowd": 1},
    ],
}
FOUND = [
    {"image_id": 5, "category_id": 9, "bbox": [10, 20, 30, 40], "score": 0.9},
    {"image_id": 5, "category_id": 4, "bbox": [110, 20, 30, 40], "score": 0.8},
    {"image_id": 5, "category_id": 4, "bbox": [310, 20, 30, 40], "score": 0.7},
    {"image_id": 3, "category_id": 4, "bbox": [0, 0, 5, 5], "score": 0.6},
]


def test_boxes_carry_the_colour_of_what_they_are():
    errors = break_down_errors(evaluate_coco(TRUTH, FOUND))
    here, seen = boxes_of_image(errors, 1)  # ids are sorted: image 5 stands second
    wrong, missed = KIND_COLOURS["classification"], KIND_COLOURS["missed"]
    assert [(box.caption, box.colour) for box in here] == [
        ("dog", GREEN),
        ("dog classification", wrong),
        ("dog missed", missed),
        ("cat crowd", GREY),
    ]
    assert [(box.caption, box.colour) for box in seen] == [
        ("cat 0.70 ignored", GREY),
        ("cat 0.80 classification", wrong),
        ("dog 0.90", GREEN),
    ]
    assert here[0].box_px == (10, 20, 40, 60)


def test_ground_truth_is_drawn_on_the_left_and_detections_on_the_right():
    image = np.full((480, 640, 3), 200, np.uint8)
    sheet = np.asarray(draw_apart(image, [DrawnBox((100, 100, 200, 200), "dog", "#ff0000")], [], title="x"))
    red = np.argwhere((sheet == (255, 0, 0)).all(-1))
    bar = sheet.shape[0] - 480
    assert red[:, 1].min() == 100
    assert red[:, 1].max() == 200
    assert red[:, 0].max() == 200 + bar
    sheet = np.asarray(draw_apart(image, [], [DrawnBox((100, 100, 200, 200), "dog", "#ff0000")]))
    assert np.argwhere((sheet == (255, 0, 0)).all(-1))[:, 1].min() > 640


def test_a_caption_is_whole_inside_the_picture_and_above_later_boxes():
    image = np.full((480, 640, 3), 200, np.uint8)
    above, across = DrawnBox((100, -30, 200, 200), "dog", "#ff0000"), DrawnBox((90, 3, 300, 8), "", "#0000ff")
    sheet = np.asarray(draw_apart(image, [above, across], [], title="a title takes a line of its own"))
    plain = np.asarray(draw_apart(image, [], []))
    bar = sheet.shape[0] - 480
    assert bar == 2 * (plain.shape[0] - 480)
    red = (sheet[bar:, :640] == (255, 0, 0)).all(-1)
    assert red[0, 100:110].all()  # the caption's plate starts at the upper edge, though its box starts above it
    assert not (sheet[bar : bar + 12, 102:110] == (0, 0, 255)).all(-1).any()


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 3)])
def test_small_and_grey_images_are_enlarged_and_boxes_with_them(shape):
    sheet = draw_apart(np.zeros(shape, np.uint8), [DrawnBox((-5, 0, 500, 59), "far out", GREEN)], [])
    assert sheet.mode == "RGB"
    assert sheet.height >= 480


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros(4, np.uint8)])
def test_another_shape_or_type_is_refused(image):
    with pytest.raises(ValueError, match=r"draw_apart: image: got .*, allowed: uint8 \(H, W, 3\)"):
        draw_apart(image, [], [])
