"""Run a model in other modes or with hooks, and restore it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def restore_modes(model: nn.Module) -> Iterator[list[RemovableHandle]]:
    """Restore the mode of every module on exit; remove the hooks whose handles are appended to the yielded list."""
    modes = {module: module.training for module in model.modules()}
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
