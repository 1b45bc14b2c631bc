"""The catalogue and what JSON is given."""

import doctest
import json

import pytest
import torch

import examples.lab.demonstration
from examples.lab.catalogue import DEMONSTRATIONS, find_demonstration
from examples.lab.demonstration import for_json, generator


def test_the_examples_run():
    assert doctest.testmod(examples.lab.demonstration, extraglobs={"torch": torch}).failed == 0


def test_what_is_not_finite_becomes_null_and_keys_become_text():
    numbers = {0.5: [float("inf"), 1, "x"], "t": torch.tensor([[1.25], [float("nan")]])}
    assert json.loads(json.dumps(for_json(numbers), allow_nan=False)) == {"0.5": [None, 1, "x"], "t": [[1.25], [None]]}


def test_a_stream_depends_on_its_seed_alone():
    first = torch.rand(3, generator=generator(7))
    torch.rand(5)
    assert torch.equal(torch.rand(3, generator=generator(7)), first)


def test_a_demonstration_is_found_by_its_name_and_an_unknown_one_is_refused_with_a_guess():
    assert find_demonstration("l2norm") is DEMONSTRATIONS["l2norm"]
    with pytest.raises(ValueError, match=r"unknown demonstration 'L2-norm'; choose one of: .*Did you mean 'l2norm'\?"):
        find_demonstration("L2-norm")
