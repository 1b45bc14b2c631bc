"""This file is about hard negative mining: which background boxes of each image count in the loss."""

from __future__ import annotations

import torch
from torch import Tensor


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
    num_matched = matched.sum(dim=1, keepdim=True)
    wanted = torch.minimum((ratio * num_matched).long(), matched.shape[1] - num_matched)
    candidates = background_loss.masked_fill(matched, -torch.inf)
    if candidates.device.type == "cpu":  # the host may look at the number, and finding the first few is cheaper
        largest = candidates.topk(max(int(wanted.max()), 1), dim=1).values
    else:
        largest = candidates.sort(dim=1, descending=True).values
    smallest_chosen = largest.gather(1, (wanted - 1).clamp(min=0))
    above, equal = candidates > smallest_chosen, candidates == smallest_chosen
    room = wanted - above.sum(dim=1, keepdim=True)
    return (above | (equal & (equal.cumsum(dim=1) <= room))) & (wanted > 0)
