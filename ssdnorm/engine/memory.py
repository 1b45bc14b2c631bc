"""Estimate the memory of a training step, and choose a batch size that fits."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

log = logging.getLogger("ssdnorm.engine")

_SIZES = (1, 2, 4, 8, 16, 32)  # the last is the paper's, for which rates are known
_SHARE = 0.8  # of the free memory
_WORKSPACE = 1.5  # gradients of the maps, and what convolutions need beside them
_COPIES = 4  # of the parameters: weights, gradients, two moments or a momentum and an average


def choose_batch_size(model: nn.Module, image_shape: tuple[int, int, int], *, free_bytes: int) -> int:
    """The largest power of 2, up to 32, whose training step is estimated to fit into four fifths of the free memory.

    Args:
        model: on any device; it runs once on shapes alone.
        image_shape: of one image.

    Raises:
        ValueError: one image does not fit.
    """
    parameters = _COPIES * sum(p.numel() * p.element_size() for p in model.parameters())
    image = _WORKSPACE * saved_bytes(model, (2, *image_shape)) / 2
    fitting = [n for n in _SIZES if parameters + n * image <= _SHARE * free_bytes]
    if not fitting:
        needed, free = (parameters + image) / 2**30, free_bytes / 2**30
        raise ValueError(f"batch_size: auto: one image needs about {needed:.1f} GiB; {free:.1f} GiB are free")
    needed = (parameters + fitting[-1] * image) / 2**30
    log.info("batch size: auto is %d: about %.1f GiB of %.1f free", fitting[-1], needed, free_bytes / 2**30)
    return fitting[-1]


def saved_bytes(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Bytes that a forward pass in training mode keeps for the backward pass, parameters aside; nothing is computed."""
    on_meta = {
        name: torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    owned = {tensor.untyped_storage()._cdata for tensor in on_meta.values()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in owned:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = functional_call(model, on_meta, (torch.empty(*shape, device="meta"),))
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def free_memory(device: torch.device) -> int:
    """Bytes that a training may take on a GPU, or of this machine's memory (Linux; elsewhere 4 GiB are assumed)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    available = re.search(r"^MemAvailable: +(\d+) kB$", info.read_text() if info.exists() else "", re.MULTILINE)
    return int(available[1]) * 1024 if available else 4 << 30
