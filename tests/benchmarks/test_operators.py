"""Profiles name what took most, and the peak of memory is what was held at once."""

import doctest
import time

import pytest
import torch

from benchmarks import operators
from benchmarks.operators import peak_megabytes, top_functions, top_operators


def test_the_example_runs():
    assert doctest.testmod(operators).failed == 0


def test_the_operator_that_takes_most_comes_first_with_its_calls():
    x = torch.rand(200, 200)
    assert top_operators(lambda: [x @ x for _ in range(3)] and x.view(-1)).startswith("mm ")
    assert "(3×)" in top_operators(lambda: [x @ x for _ in range(3)], number=1)


def test_the_function_that_takes_most_comes_first_with_its_calls():
    def nap():
        time.sleep(0.02)

    found = top_functions(lambda: [nap() for _ in range(3)], number=1)
    assert "sleep" in found
    assert "(3×)" in found


@pytest.mark.parametrize(("together", "megabytes"), [(True, 6.0), (False, 4.0)])
def test_the_peak_is_what_is_held_at_once(together, megabytes):
    def call():
        first = torch.ones(1_000_000)
        if not together:
            del first
        return torch.ones(500_000).sum()

    assert peak_megabytes(call) == pytest.approx(megabytes, abs=0.1)
