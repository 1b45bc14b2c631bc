"""Drawing: what is marked, where, and what stays as it was."""

import numpy as np

from ssdnorm.plots.boxes import contact_sheet, draw_boxes


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
