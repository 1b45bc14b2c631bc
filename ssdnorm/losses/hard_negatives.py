"""This file is about hard negative mining: which background boxes of each image count in the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdnorm.boxes.waiting import host_may_look


@torch.no_grad()
def hard_negative_mask(background_loss: Tensor, matched: Tensor, *, ratio: float = 3.0) -> Tensor:
    """Choose, in each image, the background boxes with the largest loss, ``ratio`` for each matched box.

    An image without matched boxes gets none, as in Caffe. Among equal losses the lower index is taken.

    Args:
        background_loss: the loss of each box if it is background.
        matched: boxes that have a ground truth; they are never chosen.
        ratio: negatives per matched box, 0 or more.

    Shape:
        background_loss ``(B, K)``; matched ``(B, K)`` bool; output ``(B, K)`` bool.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.2, "hard negative mining".

    Example:
        >>> loss = torch.tensor([[0.1, 5.0, 0.9, 0.3, 0.7]])
        >>> hard_negative_mask(loss, torch.tensor([[False, True, False, False, False]]), ratio=2).tolist()
        [[False, False, True, False, True]]
    """
    candidates = background_loss.masked_fill(matched, -torch.inf)
    num_matched = matched.sum(dim=1, keepdim=True)
    if host_may_look(candidates):  # finding the first few is cheaper than sorting
        wanted = torch.minimum(ratio * num_matched, matched.shape[1] - num_matched)
        numbers = wanted.int().flatten().tolist()  # rounded as on a GPU
        return torch.stack([_largest(row, n) for row, n in zip(candidates, numbers, strict=True)])
    order = candidates.sort(dim=1, descending=True, stable=True).indices
    first = torch.arange(1, matched.shape[1] + 1, device=matched.device) <= ratio * num_matched
    return torch.empty_like(matched).scatter_(1, order, first).masked_fill_(matched, False)


def _largest(values: Tensor, number: int) -> Tensor:
    """Which are the ``number`` largest values, the lower index first among equals; ``(K,)`` bool."""
    if number == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    largest = values.topk(number, sorted=False)
    smallest = largest.values.min()
    if smallest.isnan():  # taken, so that the loss is not a number either
        return torch.zeros_like(values, dtype=torch.bool).index_fill_(0, largest.indices, True)
    chosen = values >= smallest
    too_many = int(chosen.sum()) - number
    if too_many:
        chosen[(values == smallest).nonzero()[-too_many:, 0]] = False
    return chosen
