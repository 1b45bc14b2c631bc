"""Expected error of batch norm's running statistics as a function of momentum and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssdnorm.diagnose.batch_norm import LayerDistances

BATCH_SIZES = (1, 2, 4, 8, 16, 32)
MOMENTA = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_DRAWS = 400  # batches per size; their spread is then estimated to 4 %


@dataclass(frozen=True)
class MomentumCurves:
    r"""Expected distance of running statistics from the population's, root mean square over layers and channels.

    Attributes:
        batch_sizes, momenta: the rows and columns.
        mean_error: of running means, in population standard deviations.
        variance_error: of running variances, as a share of the population's.
        variance_bias: by batch size, relative difference of a batch's expected variance from the population's; it does
            not depend on momentum. The images of a small batch vary less than the population.
    """

    batch_sizes: tuple[int, ...]
    momenta: tuple[float, ...]
    mean_error: list[list[float]]
    variance_error: list[list[float]]
    variance_bias: list[float]


def momentum_curves(
    layers: Sequence[LayerDistances],
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    momenta: Sequence[float] = MOMENTA,
) -> MomentumCurves:
    r"""Compute the expected error of running statistics for fixed weights.

    An exponential average with momentum m over independent batches has the batches' mean and a smaller variance:

    .. math:: E (r - \mu)^2 = (E b - \mu)^2 + \tfrac{m}{2 - m} \operatorname{Var} b

    The statistics b of a batch are computed from those of single images, drawn with replacement. In training the
    weights change, so a low momentum also lags behind, which these curves do not include.

    Args:
        batch_sizes: images per batch; sizes above half of the available images are skipped, because their draws would
            be too similar.
        momenta: weights of the new batch, in (0, 1].

    Raises:
        ValueError: fewer than two images.
    """
    num_images = len(layers[0].image_means) if layers else 0
    if num_images < 2:
        raise ValueError(f"momentum_curves: needs the statistics of two images at least; got {num_images}")
    sizes = tuple(size for size in batch_sizes if size <= max(1, num_images // 2))
    generator = torch.Generator().manual_seed(0)
    mean_rows, variance_rows, biases = [], [], []
    for size in sizes:
        drawn = torch.randint(num_images, (_DRAWS, size), generator=generator)
        found = [_batch_errors(layer, drawn) for layer in layers]
        shift_spread, ratio_spread, ratio_bias = (torch.cat(column) for column in zip(*found, strict=True))
        lasting = [m / (2 - m) for m in momenta]
        mean_rows.append([(share * shift_spread).mean().sqrt().item() for share in lasting])
        variance_rows.append([(ratio_bias.square() + share * ratio_spread).mean().sqrt().item() for share in lasting])
        biases.append(ratio_bias.mean().item())
    return MomentumCurves(sizes, tuple(momenta), mean_rows, variance_rows, biases)


def _batch_errors(layer: LayerDistances, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variance of a batch's mean, variance and bias of its variance, relative to the population's; ``(C,)`` each."""
    size = drawn.shape[1]
    mean = layer.image_means.mean(0)
    between = layer.image_means.var(0, correction=0)
    variance = between + layer.image_variances.mean(0)
    scale = variance + layer.eps
    means = layer.image_means[drawn].mean(1)
    squares = (layer.image_variances + layer.image_means.square())[drawn].mean(1)
    count = size * layer.values_per_image
    unbiased = count / max(1, count - 1)
    variances = (squares - means.square()) * unbiased
    expected = (variance - between / size) * unbiased
    shift_spread = (means - mean).square().mean(0) / scale
    return shift_spread, (variances - expected).square().mean(0) / scale.square(), (expected - variance) / scale
