"""This file is about initial weights: drawn per parameter name, so that models share those they have in common."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn


@torch.no_grad()
def draw_initial_weights(model: nn.Module, seed: int) -> None:
    """Draw the weights of every convolution anew; each depends on the seed and on its own name alone.

    So two models that differ in their norms start from the same convolutions, whatever was drawn before them.
    Backbone convolutions (names with ``backbone.``) are drawn as He et al. propose for ReLU networks, the extra layers
    and the head by Glorot and Bengio's rule, as Caffe's recipe has it. Biases are 0; norms are left alone.

    Args:
        model: its ``nn.Conv2d`` modules are changed in place.
        seed: any integer.

    Sources:
        K. He et al. (arXiv:1502.01852), equation 10, fan-in. X. Glorot, Y. Bengio (AISTATS 2010), equation 16.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d) or module.weight.is_meta:
            continue
        out_channels, in_channels, height, width = module.weight.shape
        fan_in, fan_out = in_channels * height * width, out_channels * height * width
        generator = torch.Generator().manual_seed(_seed_of(seed, f"{name}.weight"))
        draw = torch.empty(module.weight.shape)
        if "backbone." in f".{name}":
            draw.normal_(0.0, math.sqrt(2.0 / fan_in), generator=generator)
        else:
            limit = math.sqrt(6.0 / (fan_in + fan_out))
            draw.uniform_(-limit, limit, generator=generator)
        module.weight.copy_(draw)
        if module.bias is not None:
            module.bias.zero_()


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little") >> 1
