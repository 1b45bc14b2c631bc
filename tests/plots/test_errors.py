"""Figures of the errors: bars as long as the gain, boxes in the colour of what went wrong."""

from ssdnorm.metrics import evaluate_coco
from ssdnorm.metrics.errors import break_down_errors
from ssdnorm.plots.errors import HIT, IGNORED, KIND_COLORS, boxes_of_image, plot_errors
from tests.metrics.random_sets import draw_set

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


def test_the_bars_of_the_errors_are_as_long_as_their_gain():
    errors = break_down_errors(evaluate_coco(*draw_set(1)))
    widths = [bar.get_width() for bar in plot_errors(errors).axes[0].containers[0]]
    assert widths[:6] == list(errors.delta_ap.values())
    assert widths[6:] == [errors.delta_ap_false_positives, errors.delta_ap_false_negatives]


def test_boxes_carry_the_colour_of_what_they_are():
    errors = break_down_errors(evaluate_coco(TRUTH, FOUND))
    here, seen = boxes_of_image(errors, 1)  # ids are sorted: image 5 stands second
    wrong, missed = KIND_COLORS["classification"], KIND_COLORS["missed"]
    assert [(box.caption, box.color) for box in here] == [
        ("dog", HIT),
        ("dog classification", wrong),
        ("dog missed", missed),
        ("cat crowd", IGNORED),
    ]
    assert [(box.caption, box.color) for box in seen] == [
        ("cat 0.70 ignored", IGNORED),
        ("cat 0.80 classification", wrong),
        ("dog 0.90", HIT),
    ]
    assert here[0].box_px == (10, 20, 40, 60)
