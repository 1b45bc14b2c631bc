"""Every example in a docstring gives what it says."""

import doctest
import pkgutil
from importlib import import_module

import pytest
import torch
from torch import nn

import ssdnorm

MODULES = sorted(module.name for module in pkgutil.walk_packages(ssdnorm.__path__, "ssdnorm."))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_examples_of_a_module_give_what_they_say(name):
    names = {"torch": torch, "nn": nn, "ssdnorm": ssdnorm}
    failed, _ = doctest.testmod(import_module(name), extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert failed == 0
