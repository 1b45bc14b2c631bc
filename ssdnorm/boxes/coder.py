"""Encode boxes as offsets from default boxes, and decode them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_LOG_SCALE = math.log(1000 / 16)  # limits exp() for wild outputs, as torchvision's BoxCoder does


@dataclass(frozen=True)
class BoxCoder:
    r"""Offsets between boxes and default boxes, divided by variances.

    .. math::
        l_{cx} = (g_{cx} - d_{cx}) / (d_w v_0) \qquad l_w = \log(g_w / d_w) / v_2

    and the same for :math:`cy, v_1` and :math:`h, v_3`. The variances bring the four offsets to a similar spread.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), equation 2; the variances from ``bbox_util.cpp`` (weiliu89/caffe).

    Args:
        variances: of cx, cy, w, h (unitless, above 0).

    Example:
        >>> default_boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
        >>> BoxCoder().encode(torch.tensor([[0.42, 0.4, 0.62, 0.6]]), default_boxes).round(decimals=4).tolist()
        [[1.0, 0.0, 0.0, 0.0]]
    """

    variances: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.2)

    def __post_init__(self) -> None:
        if len(self.variances) != 4 or any(v <= 0 for v in self.variances):
            raise ValueError(f"BoxCoder: variances must be four numbers above 0; got {self.variances}")

    def encode(self, boxes_xyxy: Tensor, default_boxes: Tensor) -> Tensor:
        """Offsets of boxes from default boxes.

        Shape:
            boxes_xyxy ``(…, 4)`` with positive width and height; default_boxes ``(…, 4)`` cxcywh; output ``(…, 4)``.
        """
        size = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]) / default_boxes[..., 2:]
        twice = torch.sub(boxes_xyxy[..., :2] + boxes_xyxy[..., 2:], default_boxes[..., :2], alpha=2)  # 2 (g - d)
        centre = twice / default_boxes[..., 2:] / (2 * self._pair(0, twice))
        return torch.cat((centre, size.log() / self._pair(2, size)), dim=-1)

    def decode(self, locs: Tensor, default_boxes: Tensor) -> Tensor:
        """Boxes from offsets; the inverse of :meth:`encode`.

        A size is limited to 62.5 times the default box, so that no output overflows.

        Shape:
            locs ``(…, 4)``; default_boxes ``(…, 4)`` cxcywh; output ``(…, 4)`` xyxy, not clipped.
        """
        centre = default_boxes[..., :2] + locs[..., :2] * self._pair(0, locs) * default_boxes[..., 2:]
        log_scale = (locs[..., 2:] * self._pair(2, locs)).clamp(max=_MAX_LOG_SCALE)
        half = default_boxes[..., 2:] * log_scale.exp() / 2
        return torch.cat((centre - half, centre + half), dim=-1)

    def _pair(self, first: int, like: Tensor) -> Tensor | float:
        """Two of the variances; one number if they are equal, which needs no copy to the device."""
        a, b = self.variances[first : first + 2]
        return a if a == b else like.new_tensor((a, b))
