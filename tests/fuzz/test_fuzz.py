"""Hostile input of every kind ends in a result or in one line that this library wrote, without hanging or gigabytes."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.kinds import KINDS
from tests.fuzz.outcome import failure, memory_limit


@pytest.mark.parametrize("name", KINDS)
def test_hostile_input_is_read_or_refused(name, tmp_path):
    kind = KINDS[name]
    for package in kind.needs:
        pytest.importorskip(package)

    @settings(max_examples=kind.number, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(kind.cases())
    def read(case):
        assert not failure(lambda one: kind.read(one, tmp_path), case)

    found = kind.found()
    with memory_limit():
        for case in found:
            assert not failure(lambda one: kind.read(one, tmp_path), case), repr(case)[:200]
        read()
