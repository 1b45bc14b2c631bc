"""The report's pictures: which images, which boxes, what each of them is."""

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ssdnorm.compare.pictures import class_colors, photos_of, shown_runs

from .synthetic import make_comparison, shapes


def exact(test_set, place, *, offset=0.0, score=0.9):
    target = test_set.target(place)
    return [
        {
            "image_id": test_set.image_id(place),
            "category_id": test_set.category_ids[label - 1],
            "bbox": [x1 + offset, y1, x2 - x1, y2 - y1],
            "score": score - i / 1000,
        }
        for i, ((x1, y1, x2, y2), label) in enumerate(
            zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True)
        )
    ]


@pytest.fixture
def case(tmp_path):
    """A test set, results, and a function that makes an arm's detections and gives its panel of the first image."""
    test_set = shapes(9)
    shown = shown_runs(make_comparison(tmp_path, arms=["a", "b"], seeds=[0], rates=[0.1], test_set=test_set), tmp_path)

    def panel(detections):
        (tmp_path / shown["b"].folder / "detections.json").write_text(json.dumps(detections))
        return photos_of(shown, tmp_path, test_set)[0].panels[2]

    return test_set, shown, panel


def test_images_are_evenly_spaced_pictures_of_the_test_set_with_the_truth_and_every_arm(case, tmp_path):
    test_set, shown, _ = case
    photos = photos_of(shown, tmp_path, test_set, num_images=5)
    assert [photo.name for photo in photos] == [test_set.image_name(place) for place in (0, 2, 4, 6, 8)]
    assert all([panel.title for panel in photo.panels] == ["ground truth", "a", "b"] for photo in photos)
    picture = Image.open(io.BytesIO(base64.b64decode(photos[0].uri.split(",")[1])))
    assert picture.size == (photos[0].width, photos[0].height) == (200, 150)
    assert np.abs(np.asarray(picture, float) - test_set.load_image(0)).mean() < 20
    assert photos_of({}, tmp_path, test_set) == [], "no detections, no photos"


def test_true_boxes_are_found(case):
    test_set, _, panel = case
    found = panel(exact(test_set, 0))
    assert [box.kind for box in found.boxes] == ["found"] * 3
    assert found.tally == "3 found"
    np.testing.assert_allclose([found.boxes[0].x, found.boxes[0].y], test_set.target(0)["boxes"][0, :2], atol=0.06)


def test_a_box_beside_its_object_is_wrong_and_the_object_missed(case):
    test_set, _, panel = case
    beside = exact(test_set, 0, offset=90.0)
    assert [box.kind for box in panel(beside).boxes] == ["wrong"] * 3 + ["missed"] * 3
    assert panel(exact(test_set, 0)[:1] + beside[1:2]).tally == "1 found, 1 wrong, 2 missed"


def test_a_second_box_on_an_object_is_wrong_and_takes_the_place_of_another(case):
    test_set, _, panel = case
    assert len(exact(test_set, 0)) == 3
    twice = [{**exact(test_set, 0)[0], "score": score} for score in (0.95, 0.94)]
    kinds = [box.kind for box in panel(exact(test_set, 0, score=0.5)[1:2] + twice).boxes]
    assert kinds == ["found", "wrong", "found", "missed"]


def test_the_wrong_class_is_wrong(case):
    test_set, _, panel = case
    other = [{**one, "category_id": one["category_id"] % 5 + 1} for one in exact(test_set, 0)]
    assert "found" not in [box.kind for box in panel(other).boxes]


def test_only_as_many_boxes_as_there_are_objects_are_drawn_best_first(case):
    test_set, _, panel = case
    weak = [{**exact(test_set, 0)[0], "bbox": [0, 0, 5, 5], "score": score} for score in (0.1, 0.2, 0.3)]
    kinds = [box.kind for box in panel(weak + exact(test_set, 0, score=0.4)).boxes]
    assert kinds == ["found"] * 3


def test_an_arm_without_detections_has_every_object_missed(case):
    _, _, panel = case
    empty = panel([])
    assert {box.kind for box in empty.boxes} == {"missed"}
    assert "missed" in empty.alt


def test_captions_stay_in_the_picture(case, tmp_path):
    test_set, shown, panel = case
    panel([{**one, "bbox": [190, 0, 10, 10]} for one in exact(test_set, 0)])
    for photo in photos_of(shown, tmp_path, test_set):
        for box in (box for panel in photo.panels for box in panel.boxes):
            length = 0.6 * photo.letter * len(box.caption) * (-1 if box.leftward else 1)
            assert min(box.caption_x, box.caption_x + length) >= 0
            assert max(box.caption_x, box.caption_x + length) <= photo.width
            assert photo.letter <= box.caption_y <= photo.height


def test_an_image_with_more_than_six_objects_has_no_captions(case, tmp_path):
    test_set, shown, _ = case
    photo = photos_of(shown, tmp_path, test_set)[0]
    truth, arm = photo.panels[:2]
    six, seven = (replace(truth, boxes=truth.boxes[:1] * count) for count in (6, 7))
    assert replace(photo, panels=[six, arm]).captioned
    assert not replace(photo, panels=[seven, arm]).captioned


def test_classes_have_colours_of_their_own_the_commonest_first_and_those_beyond_the_sixth_share_one(case, tmp_path):
    test_set, shown, _ = case
    photo = photos_of(shown, tmp_path, test_set)[0]
    box = photo.panels[0].boxes[0]
    boxes = [replace(box, label=f"class {i}") for i in range(8) for _ in range(i + 1)]
    colours = class_colors([replace(photo, panels=[replace(photo.panels[0], boxes=boxes)])])
    assert list(colours) == [f"class {i}" for i in reversed(range(8))]
    assert len(set(colours.values())) == 7
    assert colours["class 1"] == colours["class 0"] == "#ffffff"
