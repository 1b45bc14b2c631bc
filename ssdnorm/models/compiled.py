"""This file is about compiling a network for inference, with its weights frozen into the code."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def compile_for_inference(model: nn.Module, images: Tensor) -> None:
    """``torch.compile`` with frozen weights, which on a CPU is where the gain comes from; changes how ``model`` runs.

    Compiles now, for images of this shape, in inference mode; that takes up to two minutes. Other shapes are compiled
    anew when they come, without freezing. Later changes of the weights are not seen.

    Args:
        model: in evaluation mode, on the device of the images.

    Shape:
        images as the model takes them, in the data type and memory format that it will get.

    Raises:
        ValueError: if the model is in training mode.
    """
    if model.training:
        raise ValueError("compile_for_inference: the model is in training mode; call .eval()")
    import torch._inductor.config as config  # slow to import, and needed here alone

    model.compile(dynamic=False)
    with torch.inference_mode(), config.patch(freezing=True):
        model(images.clone())  # a copy made in inference mode: what is compiled for others would not serve it
