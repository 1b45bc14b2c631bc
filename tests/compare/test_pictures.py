"""The report's pictures: which images, which boxes, what each of them is."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from ssdnorm.compare import pictures
from ssdnorm.compare.pictures import photos_of, shown_runs
from ssdnorm.plots.colors import HIT, MISSED, WRONG

from .synthetic import make_comparison, shapes


def exact(test_set, place, *, offset=0.0, score=0.9):
    boxes, labels = test_set.training_boxes(place)
    return [
        {
            "image_id": test_set.image_id(place),
            "category_id": test_set.category_ids[label - 1],
            "bbox": [x1 + offset, y1, x2 - x1, y2 - y1],
            "score": score - i / 1000,
        }
        for i, ((x1, y1, x2, y2), label) in enumerate(zip(boxes.tolist(), labels.tolist(), strict=True))
    ]


def pixels(panel):
    return Image.open(io.BytesIO(base64.b64decode(panel.uri.removeprefix("data:image/webp;base64,"))))


@pytest.fixture
def drawn(monkeypatch):
    """The boxes of every picture drawn, in the order of the panels."""
    boxes, draw = [], pictures.draw_scaled

    def spy(picture, marks, *args, **options):
        boxes.append(marks)
        return draw(picture, marks, *args, **options)

    monkeypatch.setattr(pictures, "draw_scaled", spy)
    return boxes


@pytest.fixture
def case(tmp_path, drawn):
    """A test set, results, and a function: an arm's detections → its panel of the first image, and the boxes in it."""
    test_set = shapes(9)
    shown = shown_runs(make_comparison(tmp_path, arms=["a", "b"], seeds=[0], rates=[0.1], test_set=test_set), tmp_path)

    def panel(detections):
        (tmp_path / shown["b"].folder / "detections.json").write_text(json.dumps(detections))
        drawn.clear()
        return photos_of(shown, tmp_path, test_set)[0].panels[2], drawn[2]

    return test_set, shown, panel


def test_images_are_evenly_spaced_pictures_of_the_test_set_with_the_truth_and_every_arm(case, tmp_path):
    test_set, shown, _ = case
    photos = photos_of(shown, tmp_path, test_set, num_images=5)
    assert [photo.name for photo in photos] == [test_set.image_name(place) for place in (0, 2, 4, 6, 8)]
    assert all([panel.title for panel in photo.panels] == ["ground truth", "a", "b"] for photo in photos)
    picture = pixels(photos[0].panels[0])
    assert picture.size == (480, 360)
    assert np.abs(np.asarray(picture.resize((200, 150)), float) - test_set.load_image(0)).mean() < 20
    assert photos_of({}, tmp_path, test_set) == [], "no detections, no photos"


def test_the_ground_truth_has_every_object_with_its_class(case, drawn, tmp_path):
    test_set, shown, _ = case
    photos = photos_of(shown, tmp_path, test_set)
    for place, photo, objects in zip((0, 2, 4, 6, 8), photos, drawn[::3], strict=True):
        boxes, labels = test_set.training_boxes(place)
        assert [box.caption for box in objects] == [test_set.class_names[label - 1] for label in labels]
        np.testing.assert_allclose([box.box_px for box in objects], boxes, rtol=1e-6)
        assert photo.panels[0].counts == f"{len(objects)} object{'s' if len(objects) != 1 else ''}"


def test_true_boxes_are_found_and_drawn_where_they_are_with_their_scores(case):
    test_set, _, panel = case
    found, boxes = panel(exact(test_set, 0))
    best, (true_boxes, labels) = boxes[-1], test_set.training_boxes(0)
    assert best.caption == f"{test_set.class_names[labels[0] - 1]} 0.90"
    np.testing.assert_allclose(best.box_px, true_boxes[0], rtol=1e-6)
    x1, y1, _, y2 = (2.4 * side for side in best.box_px)
    line = np.asarray(pixels(found))[round((y1 + y2) / 2), round(x1) + 1]
    assert np.abs(line - [0x00, 0xC8, 0x53]).max() < 70


@pytest.mark.parametrize(
    ("detections", "kinds"),
    [
        (lambda true, beside: true, "fff"),
        (lambda true, beside: beside, "mmmwww"),
        (lambda true, beside: true[:1] + beside[1:2], "mmwf"),
        (lambda true, beside: [true[1], {**true[0], "score": 0.95}, {**true[0], "score": 0.94}], "mfwf"),  # one twice
        (lambda true, beside: [{**one, "category_id": one["category_id"] % 5 + 1} for one in true], "mmmwww"),
        (lambda true, beside: [{**true[0], "bbox": [0, 0, 5, 5], "score": 0.3}, *true], "fff"),
        (lambda true, beside: [], "mmm"),
    ],
)
def test_found_wrong_and_missed_boxes_are_as_many_as_there_are_objects_and_the_best_lies_on_top(
    case, detections, kinds
):
    test_set, _, panel = case
    shown, boxes = panel(detections(exact(test_set, 0), exact(test_set, 0, offset=90.0)))
    assert [box.color for box in boxes] == [{"f": HIT, "w": WRONG, "m": MISSED}[kind] for kind in kinds]
    assert shown.counts == f"{kinds.count('f')} found, {kinds.count('w')} wrong, {kinds.count('m')} missed"


def test_detections_count_in_their_own_image(case, tmp_path):
    test_set, shown, panel = case
    panel(exact(test_set, 4))
    photos = photos_of(shown, tmp_path, test_set)
    counts, num = [photo.panels[2].counts for photo in photos], len(test_set.training_boxes(4)[1])
    assert counts[2] == f"{num} found, 0 wrong, 0 missed"
    assert all(count.startswith("0 found, 0 wrong") for place, count in enumerate(counts) if place != 2)


@pytest.mark.parametrize(("most", "captioned"), [(3, True), (2, False)])
def test_an_image_with_many_objects_has_no_captions(case, monkeypatch, most, captioned):
    test_set, _, panel = case
    monkeypatch.setattr(pictures, "_MOST_CAPTIONS", most)
    assert {bool(box.caption) for box in panel(exact(test_set, 0))[1]} == {captioned}


def test_the_pictures_of_many_arms_are_smaller(case, tmp_path):
    test_set, shown, _ = case
    many = {f"arm {i}": shown["a"] for i in range(8)}
    assert pixels(photos_of(many, tmp_path, test_set)[0].panels[8]).size == (320, 240)
