"""Faults in a few places each; all places: python -m tests.faults."""

import subprocess
import sys

import pytest

from tests.small_training import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trials", "every"),
    [
        (["temporary_folder", "read_only", "two_owners", "full_disk"], 8),
        (["kill_run"], 8),
        (["kill_comparison"], 16),
    ],
)
def test_a_run_folder_equals_an_undisturbed_one_whatever_happened(trials, every):
    # in a process that has computed no gradient: after one, PyTorch may refuse to train in a fork
    command = [sys.executable, "-m", "tests.faults", *trials, "--every", str(every)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
