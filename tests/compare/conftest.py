"""What is slow to make, made once: the check of a model, and a synthetic comparison."""

import time

import pytest

from ssdnorm.build import check_model
from tests.compare.synthetic import make_comparison


@pytest.fixture(scope="session", autouse=True)
def _each_model_is_checked_once():
    passed = set()

    def check(config):
        key = config.model_dump_json(exclude={"data", "augment", "optimizer"})
        if key not in passed:
            check_model(config)
        passed.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssdnorm.compare.plan.check_model", check)
        yield


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Results and folder of a comparison with everything in it: rates tried, a diverged run, diagnostics, contrasts."""
    root = tmp_path_factory.mktemp("whole")
    declared = {"margin": 0.02, "contrasts": {"what batch norm adds": [["batch_norm", "none"]]}}
    return make_comparison(root, diverged=[("none", 1)], diagnostics=True, **declared), root


def wait_until(condition):
    """What a condition gives as soon as that is true."""
    for _ in range(20_000):
        if found := condition():
            return found
        time.sleep(0.03)
    raise AssertionError("waited for ten minutes")
