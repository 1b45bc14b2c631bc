import numpy as np
import pytest

from ssdnorm.metrics.drawing import GREEN, DrawnBox, draw_apart


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
