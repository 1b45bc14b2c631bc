"""Statistics of one map: what counts as zero; quantiles of lengths against sorting."""

import math

import pytest
import torch

from ssdnorm.diagnose.feature_maps import LengthHistogram, is_dead, zero_positions


def histogram_of(*parts):
    histogram = LengthHistogram()
    for part in parts:
        histogram.add(torch.as_tensor(part))
    return histogram


@pytest.mark.parametrize("magnitude", [1e-12, 1.0, 3e9])
def test_quantiles_are_those_of_the_sorted_numbers_to_a_percent(magnitude):
    numbers = magnitude * torch.randn(10_000, generator=torch.Generator().manual_seed(0)).exp()
    numbers[:500] = 0
    histogram = histogram_of(numbers[:3000], numbers[3000:])
    for q in (0.0, 0.01, 0.04, 0.06, 0.25, 0.5, 0.9, 1.0):
        expected = numbers.sort().values[int(q * 9999)].item()
        assert histogram.quantile(q) == pytest.approx(expected, rel=0.011), q


def test_numbers_that_are_not_finite_are_counted_apart():
    histogram = histogram_of([1.0, math.inf, math.nan, 0.0])
    assert (histogram.total, histogram.zeros, histogram.non_finite) == (2, 1, 2)
    assert histogram.quantile(1.0) == pytest.approx(1.0, rel=0.011)


def test_without_numbers_there_is_no_quantile_and_no_bin():
    histogram = LengthHistogram()
    assert math.isnan(histogram.quantile(0.5))
    assert histogram.bins() == ([], [])
    assert histogram_of([0.0, 0.0]).quantile(0.5) == 0.0


def test_coarser_bins_hold_the_same_numbers_between_their_edges():
    numbers = torch.rand(1000, generator=torch.Generator().manual_seed(1)) * 50 + 0.3
    edges, counts = histogram_of(numbers).bins(per_octave=4)
    assert len(edges) == len(counts) + 1
    assert edges[1] / edges[0] == pytest.approx(2**0.25)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        assert count == ((numbers >= low * (1 - 1e-6)) & (numbers < high * (1 - 1e-6))).sum().item()


def test_a_channel_is_dead_and_a_position_zero_only_if_every_value_is():
    x = torch.zeros(2, 4, 1, 3)
    x[1, 1, 0, 2] = -1e-30  # however small, of either sign
    x[0, 2, 0, 0] = math.nan
    x[0, 3, 0, 0], x[1, 3, 0, 1] = 2.0, -2.0
    x[0, 0] = -0.0
    assert is_dead(x).tolist() == [True, False, False, False]
    assert zero_positions(x) == torch.tensor(3 / 6)  # one image has a position that is not, the other two
