"""Hits, false positives and missed objects, and the images with most of them."""

import numpy as np
import pytest

from ssdnorm.metrics import evaluate_coco, find_outcomes, worst_images

from .random_sets import draw_set
from .test_errors import moved, scene, seen


def test_every_detection_and_object_has_one_outcome():
    truth = scene({"iscrowd": 1}, {"bbox": moved(200)}, {"bbox": moved(300)})
    found = seen({}, {"bbox": moved(200), "score": 0.8}, {"bbox": moved(200), "score": 0.7}, {"bbox": moved(500)})
    outcomes = find_outcomes(evaluate_coco(truth, found))
    by_score = {round(score, 1): n for n, score in enumerate(outcomes.found.scores.tolist())}
    assert outcomes.hit[by_score[0.8]]
    assert outcomes.false_positive[by_score[0.7]]  # the object is taken
    assert (outcomes.hit.sum(), outcomes.ignored.sum(), outcomes.false_positive.sum()) == (1, 1, 2)
    assert outcomes.detected.tolist() == [False, True, False]
    assert outcomes.missed.tolist() == [False, False, True]


@pytest.mark.parametrize("seed", range(3))
def test_hits_are_the_detected_objects(seed):
    outcomes = find_outcomes(evaluate_coco(*draw_set(seed, crowd=0.2)), iou_threshold=0.7)
    assert outcomes.hit.sum() == outcomes.detected.sum() > 0
    assert not (outcomes.hit & outcomes.ignored).any()
    assert (outcomes.missed | outcomes.detected | outcomes.truth.iscrowd).all()


def test_the_worst_images_come_first_and_clean_ones_not_at_all():
    truth = scene({}, {"image_id": 2}, {"image_id": 2, "bbox": moved(200)})
    truth["images"].append({"id": 99})
    found = seen(
        {}, {"bbox": moved(400), "score": 0.3}, {"image_id": 2, "bbox": moved(400)}, {"image_id": 99, "score": 0.2}
    )
    worst = worst_images(find_outcomes(evaluate_coco(truth, found), min_score=0.3))
    assert [(image.image_id, image.counts) for image in worst] == [
        (2, {"false positive": 1, "missed": 2}),
        (11, {"false positive": 1, "missed": 0}),
    ]
    assert len(worst_images(find_outcomes(evaluate_coco(truth, found)), 1)) == 1
    assert np.array_equal(find_outcomes(evaluate_coco(truth, [])).missed, [True] * 3)
