"""Statistics of one map: what counts as dead; histograms of lengths against counting."""

import math

import pytest
import torch

from ssdnorm.diagnose.feature_maps import Maps, length_histogram


@pytest.mark.parametrize("magnitude", [1e-12, 1.0, 3e9])
def test_bins_hold_the_numbers_between_their_edges(magnitude):
    numbers = magnitude * torch.randn(1000, generator=torch.Generator().manual_seed(1)).exp()
    numbers[:7] = 0
    edges, counts, zeros = length_histogram(numbers)
    assert zeros == 7
    assert len(edges) == len(counts) + 1
    assert edges[1] / edges[0] == pytest.approx(2 ** (1 / 8))
    assert sum(counts) == 993
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        assert count == ((numbers >= low * (1 - 1e-6)) & (numbers < high * (1 - 1e-6))).sum().item()


def test_without_a_positive_number_there_is_no_bin():
    assert length_histogram(torch.zeros(0)) == ([], [], 0)
    assert length_histogram(torch.zeros(2)) == ([], [], 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_channel_is_dead_only_if_every_value_is_zero(dtype):
    x = torch.zeros(2, 6, 1, 3, dtype=dtype)
    x[0, 0] = -0.0
    x[1, 1, 0, 2] = -torch.finfo(dtype).tiny  # however small, of either sign
    x[0, 2, 0, 0] = math.nan
    x[0, 3, 0, 0], x[1, 3, 0, 1] = 2.0, -2.0
    x[:, 4] = torch.finfo(dtype).max
    maps = Maps(6)
    maps.add(x)
    assert maps.alive.tolist() == [False, True, True, True, True, False]
