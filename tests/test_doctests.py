"""Every example in a docstring of the package runs."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import ssdnorm

MODULES = sorted(m.name for m in pkgutil.walk_packages(ssdnorm.__path__, "ssdnorm.") if not m.name.endswith("__main__"))
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name):
    module = importlib.import_module(name)
    names = {"torch": torch, "nn": torch.nn, "ssdnorm": ssdnorm} | vars(module)
    torch.manual_seed(0)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name, globs=names):
        result = doctest.DocTestRunner(optionflags=FLAGS).run(test)
        assert result.failed == 0, test.name
