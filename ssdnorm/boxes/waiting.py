"""This file is about who may look at a number: on a CPU a look is free, on a GPU the host would wait for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_pretend = False


def host_may_look(x: Tensor) -> bool:
    """Whether code may branch on the values of ``x``, or count them, without making the host wait.

    Not on a GPU, nor while ``torch.compile`` traces: a look would break its graph.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not _pretend


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Run the code that a GPU would run, on a CPU: for tests, and to count kernels where there is no GPU."""
    global _pretend
    before, _pretend = _pretend, True
    try:
        yield
    finally:
        _pretend = before
