"""Run a model in other modes, with hooks or on shapes alone, and restore it afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
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


@torch.no_grad()
def run_on_shapes(model: nn.Module, input_shape: Sequence[int]) -> Any:
    """The output of a model in eval mode for an input of this shape, computed without values (the meta device)."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    with restore_modes(model):
        model.eval()
        return functional_call(model, on_meta, (torch.empty(*input_shape, device="meta"),))
