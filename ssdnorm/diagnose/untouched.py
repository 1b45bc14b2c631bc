"""This file is about measuring a model without leaving a trace: its modes, statistics and hooks are as before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle


def inner_model(model: nn.Module) -> nn.Module:
    """The model inside torch.compile's and DistributedDataParallel's wrappers, whose layers have their plain names.

    Raises:
        ValueError: for a model whose layers cannot be watched: a TorchScript, or parameters on the meta device.
    """
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model.get_submodule("_orig_mod")
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("diagnose: a TorchScript runs past hooks; give the model that it was made from")
    on_meta = [name for name, p in (*model.named_parameters(), *model.named_buffers()) if p.device.type == "meta"]
    if on_meta:
        raise ValueError(
            f"diagnose: the model has no values yet: {on_meta[0]} and {len(on_meta) - 1} others are on meta"
        )
    return model


@contextmanager
def untouched(model: nn.Module) -> Iterator[list[RemovableHandle]]:
    """Within it, a model may run in any mode with any hooks; afterwards, also after an exception, it is as before.

    Put back are the mode of every module, every buffer (its values, and the tensor itself where ``forward`` put another
    in its place), and the state of the random numbers; handles that are appended to the yielded list are removed. What
    torch.compile compiled runs in eager mode, since hooks that come later are not in its graphs; and
    ``torch.inference_mode`` is lifted, which switches gradients on.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    devices = {p.device for p in (*model.parameters(), *model.buffers()) if p.device.type == "cuda"}
    handles: list[RemovableHandle] = []
    try:
        with (
            torch.inference_mode(False),
            torch.random.fork_rng(list(devices)),
            torch.compiler.set_stance("force_eager"),
        ):
            yield handles
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for module, name, buffer, values in buffers:
                if module._buffers[name] is not buffer:
                    module._buffers[name] = buffer
                if buffer is not None and values is not None and not torch.equal(buffer, values):
                    buffer.copy_(values)
