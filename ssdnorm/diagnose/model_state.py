"""Measure a model and leave it as it was: modes, buffers, hooks and random state are restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from ssdnorm.layers.modes import restore_modes


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of torch.compile and DistributedDataParallel, with its plain layer names.

    Raises:
        ValueError: hooks do not work on the model: a TorchScript, or parameters on the meta device.
    """
    while (wrapped := isinstance(model, DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        model = model.get_submodule("module" if wrapped else "_orig_mod")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("diagnose: a TorchScript runs no hooks; pass the model that it was made from")
    on_meta = [name for name, p in (*model.named_parameters(), *model.named_buffers()) if p.device.type == "meta"]
    if on_meta:
        raise ValueError(
            f"diagnose: the model has no values: {on_meta[0]} and {len(on_meta) - 1} others are on the meta device"
        )
    return model


@contextmanager
def preserve_state(model: nn.Module) -> Iterator[list[RemovableHandle]]:
    """Run a model in any mode with any hooks, and restore its state on exit, also after an exception.

    Restores the mode of every module, every buffer (its values, and the tensor itself if ``forward`` replaced it) and
    the random state; removes the handles appended to the yielded list. Meanwhile compiled models run in eager mode,
    because their graphs do not contain later hooks, and ``torch.inference_mode`` is off, so gradients can be computed.
    """
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    devices = {p.device for p in (*model.parameters(), *model.buffers()) if p.device.type == "cuda"}
    try:
        with (
            restore_modes(model) as handles,
            torch.inference_mode(False),
            torch.random.fork_rng(list(devices)),
            torch.compiler.set_stance("force_eager"),
        ):
            yield handles
    finally:
        with torch.no_grad():
            for module, name, buffer, values in buffers:
                module._buffers[name] = buffer
                if buffer is not None and values is not None and not torch.equal(buffer, values):
                    buffer.copy_(values)
