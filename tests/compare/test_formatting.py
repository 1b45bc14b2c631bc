"""Formatting: numbers as the tables and the report write them."""

import pytest

from ssdnorm.compare.formatting import in_words, interval, shortened, signed_points
from ssdnorm.compare.results import Mean


@pytest.mark.parametrize("value", [0.00004, -0.00004, 0.0, -0.0])
def test_what_rounds_to_nothing_has_no_sign(value):
    assert signed_points(value) == "0.00"
    assert interval(Mean([0.0, 0.1], 0.05, 0.07, 10 * value, 0.002)) == "[0.0, 0.2]"


@pytest.mark.parametrize("most", [5, 6, 11, 12])
def test_a_shortened_name_is_as_long_as_asked_for_and_keeps_both_ends(most):
    short = shortened("abcdefghijklmnop", most)
    assert len(short) == most
    assert (short[0], short[-1]) == ("a", "p")


def test_nested_values_are_read_on_one_line():
    assert in_words([{"kind": "group_norm", "groups": 32}, None, 0.5]) == "kind group_norm, groups 32, none, 0.5"
