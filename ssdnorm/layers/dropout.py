"""Warn about dropout before batch norm; enable dropout alone for Monte-Carlo prediction."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ssdnorm.layers.modes import restore_modes


def warn_dropout_before_batch_norm(blocks: Mapping[str, nn.Module]) -> list[tuple[str, str]]:
    """Warn where batch norm follows dropout: its running variance holds in training but not in evaluation.

    Dropout multiplies the variance by 1 / (1 - p) in training and does nothing in evaluation, but batch norm evaluates
    with the variance it saw in training. Norms without running statistics are not affected.

    Sources:
        X. Li et al., Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift
        (CVPR 2019, arXiv:1801.05134).

    Args:
        blocks: modules by name in data order, e.g. the ConvBlocks of a model.

    Returns:
        The pairs (dropout, first batch norm after it) by name.

    Example:
        >>> from ssdnorm.layers import ConvBlock
        >>> with warnings.catch_warnings(record=True):
        ...     blocks = {"fc6": ConvBlock(4, 4, 1, dropout=0.5), "fc7": ConvBlock(4, 4, 1, norm=nn.BatchNorm2d)}
        ...     warn_dropout_before_batch_norm(blocks)
        [('fc6.dropout', 'fc7.norm')]
    """
    pairs: list[tuple[str, str]] = []
    pending: list[str] = []
    for block_name, block in blocks.items():
        for name, module in block.named_modules(prefix=block_name):
            if isinstance(module, _DropoutNd) and module.p > 0:
                pending.append(name)
            elif isinstance(module, _BatchNorm):
                pairs += [(dropout, name) for dropout in pending]
                pending = []
    if pairs:
        listed = ", ".join(f"{dropout} before {norm}" for dropout, norm in pairs)
        warnings.warn(
            f"dropout before batch norm: {listed}. The variance in training is not that of evaluation (variance shift, "
            "Li et al. 2019). Ways out: dropout 0 there, dropout after the last batch norm, or group_norm",
            stacklevel=2,
        )
    return pairs


@contextmanager
def enable_dropout(model: nn.Module) -> Iterator[None]:
    """Put dropout in train mode and everything else in eval mode, for Monte-Carlo dropout; restore the modes on exit.

    Sources:
        Y. Gal and Z. Ghahramani, Dropout as a Bayesian Approximation (arXiv:1506.02142).

    Raises:
        ValueError: the model has no dropout above 0, so all passes would be equal.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
        >>> with enable_dropout(model):
        ...     print([layer.training for layer in model])
        [False, True]
        >>> [layer.training for layer in model]
        [True, True]
    """
    active = [module for module in model.modules() if isinstance(module, _DropoutNd) and module.p > 0]
    if not active:
        raise ValueError("enable_dropout: the model has no dropout above 0; all passes would be equal")
    with restore_modes(model):
        model.eval()
        for dropout in active:
            dropout.training = True
        yield
