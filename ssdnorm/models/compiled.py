"""This file is about compiling a network for inference, with its weights frozen into the code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def compile_for_inference(model: nn.Module, images: Tensor) -> Callable[[Tensor], Any]:
    """``torch.compile`` with frozen weights, which on a CPU is where the gain comes from.

    Compiles now, for images of this shape, in inference mode; takes about a minute. Other shapes would compile anew,
    without freezing. Later changes of the weights are not seen.

    Args:
        model: in evaluation mode, on the device of the images.

    Shape:
        images as the model takes them, in the memory format that it will get.
    """
    import torch._inductor.config as config

    compiled = torch.compile(model, dynamic=False)
    with torch.inference_mode(), config.patch(freezing=True):
        compiled(images)
    return compiled
