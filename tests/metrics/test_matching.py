"""The sort orders of matching equal NumPy's stable sort."""

from __future__ import annotations

import numpy as np
import pytest

from ssdnorm.metrics.matching import best_first, stable_order


@pytest.mark.parametrize("seed", range(4))
def test_best_first_is_the_stable_order_of_falling_scores(seed):
    draw = np.random.default_rng(seed)
    special = np.array([0.0, -0.0, 5e-324, -5e-324, 1e-310, 1.0, -1.0, 1e308, -1e308, np.inf, -np.inf])
    parts = (
        draw.choice(special, 200),
        draw.integers(0, 50, 500) / 50,  # ties
        draw.normal(size=500),
        draw.random(500).astype(np.float32).astype(np.float64),
        np.exp(draw.normal(scale=200, size=200)),
    )
    scores = draw.permutation(np.concatenate(parts))
    np.testing.assert_array_equal(best_first(scores), np.argsort(-scores, kind="stable"))


@pytest.mark.parametrize("bits", [0, 1, 15, 16, 17, 31, 32, 33, 48, 49, 62])
def test_stable_order_of_integers_of_any_length(bits):
    numbers = np.random.default_rng(bits).integers(0, 2**bits, 2000)
    numbers[::3] >>= max(0, bits - 4)  # ties
    np.testing.assert_array_equal(stable_order(numbers), np.argsort(numbers, kind="stable"))


def test_nothing_has_an_order():
    assert best_first(np.empty(0)).tolist() == stable_order(np.empty(0, np.int64)).tolist() == []
