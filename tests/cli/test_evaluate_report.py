"""Boxes of the worst images: captions and colours by what they are."""

from ssdnorm.cli.evaluate_report import boxes_of_image
from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.worst import find_outcomes
from ssdnorm.plots.colors import HIT, IGNORED, MISSED, WRONG

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
    here, seen = boxes_of_image(find_outcomes(evaluate_coco(TRUTH, FOUND), min_score=0.0), 1)  # ids are sorted
    assert [(box.caption, box.color) for box in here] == [
        ("dog", HIT),
        ("dog missed", MISSED),
        ("dog missed", MISSED),
        ("cat crowd", IGNORED),
    ]
    assert [(box.caption, box.color) for box in seen] == [
        ("cat 0.70 ignored", IGNORED),
        ("cat 0.80 wrong", WRONG),
        ("dog 0.90", HIT),
    ]
    assert here[0].box_px == (10, 20, 40, 60)
