"""Compute the multibox loss: matching, hard negative mining, and the two parts of the loss."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.boxes.matcher import match_default_boxes
from ssdnorm.structures import SSDOutput


class MultiboxLoss(nn.Module):
    r"""Smooth L1 on the offsets of matched boxes plus cross-entropy on matched boxes and hard negatives.

    .. math:: L = \frac{1}{\max(1, N)} \Big( \sum_{matched} \mathrm{smooth}_{L1}(l - \hat g)
              + \sum_{matched \cup mined} -\log p_{label} \Big)

    with N the matched boxes of the batch. A batch without objects has loss 0 and zero gradients. Half precision is
    summed in float32, also under autocast. Computed on all boxes of the batch at once; the host never waits for the
    device.

    Args:
        default_boxes: the boxes that the output refers to.
        coder: how offsets are encoded.
        iou_threshold: smallest IoU at which a default box is matched (each ground truth keeps one in any case).
        negative_ratio: mined background boxes per matched box, per image.
        focal: gamma and alpha: instead of mining, every box counts, by :math:`\alpha_t (1 - p_{label})^\gamma`, with
            :math:`\alpha_t` alpha for matched boxes and 1 − alpha for background.
        class_weights: factor on the classification loss of each class; mining looks at the loss without it.

    Shape:
        default_boxes ``(K, 4)`` cxcywh in [0, 1]; class_weights ``(num_classes,)``, the background's first; see
        :meth:`forward` for the rest.

    Raises:
        ValueError: if the output does not fit the default boxes, or boxes and labels do not fit each other.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), equations 1 to 3, and section 2.2.
        T.-Y. Lin et al., Focal Loss (arXiv:1708.02002), equation 5, section 3; there on sigmoids, here on the softmax.

    Example:
        >>> from ssdnorm.boxes.default_boxes import make_default_boxes
        >>> loss = MultiboxLoss(make_default_boxes("ssd300_voc"))
        >>> output = SSDOutput(torch.zeros(1, 8732, 4), torch.zeros(1, 8732, 21))
        >>> parts = loss(output, torch.tensor([[[0.1, 0.1, 0.6, 0.7]]]), torch.tensor([[12]]))
        >>> sorted(parts)
        ['bbox_regression', 'classification']
        >>> round(parts["classification"].item(), 4)  # (1 + 3) * log(21): one matched box is worth three negatives
        12.1781
    """

    default_boxes: Tensor
    class_weights: Tensor | None

    def __init__(
        self,
        default_boxes: Tensor,
        *,
        coder: BoxCoder | None = None,
        iou_threshold: float = 0.5,
        negative_ratio: float = 3.0,
        focal: tuple[float, float] | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"MultiboxLoss: iou_threshold must lie in (0, 1]; got {iou_threshold}")
        if not 0 <= negative_ratio < math.inf:
            raise ValueError(f"MultiboxLoss: negative_ratio must be 0 or more, and finite; got {negative_ratio}")
        # coordinate by coordinate in memory, as are the gathered boxes: the encoding reads long rows
        self.register_buffer("default_boxes", default_boxes.t().contiguous().t(), persistent=False)
        self.coder = coder or BoxCoder()
        self.iou_threshold = iou_threshold
        self.negative_ratio = negative_ratio
        self.focal = focal
        self.register_buffer("class_weights", class_weights, persistent=False)

    def extra_repr(self) -> str:
        counted = f"negative_ratio={self.negative_ratio}" if self.focal is None else f"focal={self.focal}"
        return f"iou_threshold={self.iou_threshold}, {counted}"

    def forward(self, output: SSDOutput, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The two parts of the loss, to be added.

        Shape:
            output locs ``(B, K, 4)``, logits ``(B, K, num_classes)``; boxes ``(B, G, 4)`` xyxy in [0, 1] with positive
            area; labels ``(B, G)`` int64, 0 marks a padding row; G may be 0.
            Returns scalars ``bbox_regression`` and ``classification``, float32.
        """
        self._check(output, boxes, labels)
        if boxes.shape[1] == 0:  # one padding row instead of an empty dimension
            boxes, labels = boxes.new_zeros(len(boxes), 1, 4), labels.new_zeros(len(labels), 1)
        with torch.autocast(device_type=boxes.device.type, enabled=False):
            locs, logits = (x.float() if x.dtype.itemsize < 4 else x for x in output)
            matches = match_default_boxes(boxes, labels, self.default_boxes, iou_threshold=self.iou_threshold)
            background, truth = matches < 0, matches.clamp(min=0)
            matched = ~background
            num_matched = matched.sum().clamp(min=1)

            classes = labels.long().gather(1, truth).masked_fill_(background, 0)
            losses = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view_as(classes)
            if self.focal is None:
                losses = losses * hard_negative_mining(losses.detach(), matched, ratio=self.negative_ratio)
            else:
                gamma, alpha = self.focal
                losses = (
                    losses
                    * torch.expm1(-losses).neg().clamp(min=1e-6) ** gamma
                    * torch.where(matched, alpha, 1 - alpha)
                )
            if self.class_weights is not None:
                losses = losses * self.class_weights.to(losses.dtype)[classes]

            own = boxes.mT.gather(2, truth[:, None].expand(-1, 4, -1)).mT
            offsets = self.coder.encode(own, self.default_boxes).to(locs.dtype)
            # masked before the loss: offsets of padding rows are not finite
            locs, offsets = (x.masked_fill(background[..., None], 0.0) for x in (locs, offsets))
            return {
                "bbox_regression": F.smooth_l1_loss(locs, offsets, reduction="sum") / num_matched,
                "classification": losses.sum() / num_matched,
            }

    def _check(self, output: SSDOutput, boxes: Tensor, labels: Tensor) -> None:
        locs, logits = output
        num_images, num_boxes = locs.shape[0], self.default_boxes.shape[0]
        if locs.shape != (num_images, num_boxes, 4) or logits.shape[:2] != (num_images, num_boxes):
            raise ValueError(
                f"MultiboxLoss expects locs (B, {num_boxes}, 4) and logits (B, {num_boxes}, num_classes) for its "
                f"{num_boxes} default boxes; got {tuple(locs.shape)} and {tuple(logits.shape)}"
            )
        if boxes.shape != (*labels.shape, 4) or labels.shape[:1] != (num_images,):
            raise ValueError(
                f"MultiboxLoss expects boxes ({num_images}, G, 4) and labels ({num_images}, G); "
                f"got {tuple(boxes.shape)} and {tuple(labels.shape)}"
            )


@torch.no_grad()
def hard_negative_mining(losses: Tensor, matched: Tensor, *, ratio: float = 3.0) -> Tensor:
    """Choose the boxes that count: the matched ones and, in each image, the background boxes with the largest loss.

    There are ``ratio`` background boxes per matched box, rounded down; an image without matched boxes gets none, as in
    Caffe. Among equal losses the lower index is taken.

    Args:
        losses: the loss of each box.
        matched: boxes with a ground truth.
        ratio: background boxes per matched box, 0 or more.

    Shape:
        losses ``(B, K)``; matched ``(B, K)`` bool; output ``(B, K)`` bool.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.2, "hard negative mining".

    Example:
        >>> losses = torch.tensor([[0.1, 5.0, 0.9, 0.3, 0.7]])
        >>> hard_negative_mining(losses, torch.tensor([[False, True, False, False, False]]), ratio=2).tolist()
        [[False, True, True, False, True]]
    """
    order = losses.masked_fill(matched, torch.inf).sort(dim=1, descending=True, stable=True).indices
    first = torch.arange(1, losses.shape[1] + 1, device=losses.device) <= (1 + ratio) * matched.sum(dim=1, keepdim=True)
    return torch.empty_like(matched).scatter_(1, order, first)
