"""Faults in a few places each; all places: python -m tests.faults."""

import pytest

from tests.faults.__main__ import run
from tests.faults.kills import in_child


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trials", "every"),
    [
        (["temporary_folder", "read_only", "two_owners", "full_disk"], 8),
        (["kill_run"], 8),
        (["kill_comparison"], 16),
    ],
)
def test_a_run_folder_equals_an_undisturbed_one_whatever_happened(trials, every, tmp_path):
    log = tmp_path / "log.txt"
    assert in_child(lambda: run([*trials, "--every", str(every)]), log) == 0, log.read_text()
