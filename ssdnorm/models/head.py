"""The multibox head: convolutions from each tap to locs and logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ssdnorm.structures import SSDOutput


class MultiboxHead(nn.Module):
    """Predict four offsets and ``num_classes`` scores per default box with two 3×3 convolutions on each tap.

    Args:
        tap_channels: channels of each tap by name, in the order of the default boxes.
        boxes_per_cell: default boxes per cell of each tap.
        num_classes: classes, background included.

    Shape:
        input one map ``(B, C, H, W)`` per tap; output locs ``(B, K, 4)`` and logits ``(B, K, num_classes)`` in
        the order of ``make_default_boxes``: by tap, row, column, box.

    Raises:
        ValueError: the numbers of taps and of ``boxes_per_cell`` differ, or num_classes is below 2.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.1; the layout of Caffe's permute and flatten layers.
    """

    def __init__(self, tap_channels: Mapping[str, int], boxes_per_cell: Sequence[int], num_classes: int) -> None:
        super().__init__()
        if len(tap_channels) != len(boxes_per_cell):
            raise ValueError(
                f"default boxes for {len(boxes_per_cell)} taps do not fit the {len(tap_channels)} taps of the "
                f"features: {', '.join(tap_channels)}"
            )
        if num_classes < 2:
            raise ValueError(f"num_classes counts the background: it must be 2 or more; got {num_classes}")
        self.num_classes = num_classes
        self.locs, self.logits = nn.ModuleDict(), nn.ModuleDict()
        for (name, channels), num_boxes in zip(tap_channels.items(), boxes_per_cell, strict=True):
            self.locs[name] = nn.Conv2d(channels, num_boxes * 4, 3, padding=1)
            self.logits[name] = nn.Conv2d(channels, num_boxes * num_classes, 3, padding=1)

    @torch.no_grad()
    def start_with_background(self, probability: float = 0.99) -> None:
        """Set the biases of the logits so that every box begins as background with this probability.

        A loss over all boxes is otherwise that of thousands of background boxes taken for objects.

        Sources:
            T.-Y. Lin et al., Focal Loss (arXiv:1708.02002), section 3.3.
        """
        for conv in self.logits.values():
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            odds = probability / (1 - probability) * (self.num_classes - 1)
            conv.bias.view(-1, self.num_classes)[:, 0] = math.log(odds)

    def forward(self, taps: Mapping[str, Tensor]) -> SSDOutput:
        locs = [_by_box(conv(taps[name]), 4) for name, conv in self.locs.items()]
        logits = [_by_box(conv(taps[name]), self.num_classes) for name, conv in self.logits.items()]
        return SSDOutput(torch.cat(locs, dim=1), torch.cat(logits, dim=1))


def _by_box(x: Tensor, size: int) -> Tensor:
    """(B, A·size, H, W) -> (B, H·W·A, size)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, size)
