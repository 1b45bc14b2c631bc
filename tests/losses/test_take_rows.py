"""Taking rows: values, gradients, memory that nobody touches."""

import doctest

import pytest
import torch

import ssdnorm.losses.take_rows
from ssdnorm.losses.take_rows import take_rows, untouched_zeros


def test_the_example_holds():
    assert doctest.testmod(ssdnorm.losses.take_rows).failed == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_values_and_gradient_equal_those_of_indexing(dtype):
    torch.manual_seed(0)
    x, rows = torch.randn(50, 3, dtype=dtype), torch.randperm(50)[:7]
    grads = []
    for take in (take_rows, lambda x, rows: x[rows]):
        leaf = x.clone().requires_grad_()
        taken = take(leaf, rows)
        (taken * torch.arange(21).view(7, 3)).sum().backward()
        grads.append((taken.detach(), leaf.grad))
    assert torch.equal(grads[0][0], grads[1][0])
    assert torch.equal(grads[0][1], grads[1][1])
    assert grads[0][1].dtype == dtype


def test_no_row_at_all_gives_a_gradient_of_zeros():
    leaf = torch.ones(5, 2, requires_grad=True)
    take_rows(leaf, torch.empty(0, dtype=torch.int64)).sum().backward()
    assert torch.equal(leaf.grad, torch.zeros(5, 2))


def test_gradients_equal_differences_the_second_ones_too():
    leaf = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([4, 0, 3])
    assert torch.autograd.gradcheck(lambda x: take_rows(x, rows) ** 2, (leaf,))
    assert torch.autograd.gradgradcheck(lambda x: take_rows(x, rows) ** 3, (leaf,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_untouched_zeros_are_zeros_that_can_be_written(dtype):
    zeros = untouched_zeros((4, 0, 2), dtype)
    assert zeros.shape == (4, 0, 2)
    zeros = untouched_zeros((3, 5), dtype)
    assert torch.equal(zeros, torch.zeros(3, 5, dtype=dtype))
    assert (zeros.fill_(2) == 2).all()
