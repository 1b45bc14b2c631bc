"""One synthetic comparison for the tests that only read it."""

import pytest

from tests.compare.synthetic import make_comparison


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Results and folder of a comparison with everything in it: rates tried, a diverged run, diagnostics."""
    root = tmp_path_factory.mktemp("whole")
    return make_comparison(root, diverged=[("none", 1)], diagnostics=True), root
