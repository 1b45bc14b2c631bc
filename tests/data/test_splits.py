"""Splits: every image once, every class in every part."""

import numpy as np
import pytest

from ssdnorm.data.shapes import ShapesDataset
from ssdnorm.data.splits import stratified_split


def deviation(truth, part, share):
    """Sum over the classes of how far a part's objects are from its share."""
    totals, counts = (
        np.bincount(t.labels, minlength=truth.num_classes + 1) for t in (truth, truth.select_images(part))
    )
    return np.abs(counts - share * totals).sum()


@pytest.mark.parametrize("shares", [(0.85, 0.15), (0.7, 0.15, 0.15)])
def test_every_image_is_in_one_part_and_classes_are_shared_out_better_than_by_chance(shares):
    truth = ShapesDataset(200, seed=5, image_size=(40, 50)).ground_truth
    parts = stratified_split(truth, shares, seed=3)
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))
    rng = np.random.default_rng(0)
    for share, part in zip(shares, parts, strict=True):
        assert len(part) == pytest.approx(200 * share, abs=1)
        by_chance = [deviation(truth, np.sort(rng.permutation(200)[: len(part)]), share) for _ in range(50)]
        assert deviation(truth, part, share) < 0.7 * np.mean(by_chance)


def test_a_class_in_two_images_is_in_both_parts():
    truth = ShapesDataset(40, seed=5, image_size=(40, 50)).ground_truth
    truth.labels[truth.labels == 1] = 2
    for image in (7, 21):
        truth.labels[truth.starts[image]] = 1
    parts = stratified_split(truth, (0.5, 0.5))
    assert [int(7 in part) + int(21 in part) for part in parts] == [1, 1]


def test_the_seed_decides():
    truth = ShapesDataset(40, seed=5, image_size=(40, 50)).ground_truth
    one, same, other = (stratified_split(truth, (0.8, 0.2), seed=seed)[1].tolist() for seed in (0, 0, 1))
    assert one == same
    assert one != other
