"""The counter of kernels and waits."""

import doctest

import pytest
import torch

import benchmarks.kernel_count
from benchmarks.kernel_count import KernelCount


def test_the_example_holds():
    assert doctest.testmod(benchmarks.kernel_count).failed == 0


@pytest.mark.parametrize(
    ("work", "kernels", "waits"),
    [
        (lambda x: x.view(2, 3).t()[0], 0, 0),
        (lambda x: x + x * 2, 2, 0),
        (lambda x: x.sum().item(), 2, 1),
        (lambda x: (x > 0).nonzero(), 2, 1),
        (lambda x: x[x > 0], 2, 1),
        (lambda x: x.index_put_((x > 0,), torch.zeros(())), 3, 0),  # a fill
        (lambda x: x[torch.arange(2)], 2, 0),
        (lambda x: x.unique(), 1, 1),
        (lambda x: bool(x.any()), 2, 1),
        (lambda x: x.tolist(), 0, 1),
    ],
)
def test_views_are_free_and_looks_are_waits(work, kernels, waits):
    x = torch.arange(6.0)
    with KernelCount() as count:
        work(x)
    assert (count.kernels, count.waits) == (kernels, waits), count.operations


def test_numbers_of_the_host_are_uploads():
    with KernelCount() as count:
        torch.ones(2) * torch.tensor([1.0, 2.0])
    assert count.uploads == 1
