"""This file is about the multibox loss: what an SSD is trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.boxes.matcher import match_default_boxes
from ssdnorm.losses.hard_negatives import hard_negative_mask
from ssdnorm.structures import SSDOutput

_CPU_BLOCK = 8192  # rows; their temporaries stay in the cache, which more than halves the time of logsumexp


class MultiboxLoss(nn.Module):
    r"""Smooth L1 on the offsets of matched boxes plus cross-entropy on matched boxes and hard negatives.

    .. math:: L = \frac{1}{\max(1, N)} \Big( \sum_{matched} \mathrm{smooth}_{L1}(l - \hat g)
              + \sum_{matched \cup mined} -\log p_{label} \Big)

    with N the matched boxes of the batch. A batch without objects has loss 0 and zero gradients. Everything runs on
    the whole batch at once, in float32 also under autocast, and on a GPU without waiting for it.

    Args:
        default_boxes: the boxes that the output refers to.
        coder: how offsets are encoded.
        iou_threshold: smallest IoU at which a default box is matched (each ground truth keeps one in any case).
        negative_ratio: mined background boxes per matched box, per image.

    Shape:
        default_boxes ``(K, 4)`` cxcywh in [0, 1]; see :meth:`forward` for the rest.

    Raises:
        ValueError: if the output does not fit the default boxes, or boxes and labels do not fit each other.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), equations 1 to 3, and section 2.2.

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

    def __init__(
        self,
        default_boxes: Tensor,
        *,
        coder: BoxCoder | None = None,
        iou_threshold: float = 0.5,
        negative_ratio: float = 3.0,
    ) -> None:
        super().__init__()
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"MultiboxLoss: iou_threshold must lie in (0, 1]; got {iou_threshold}")
        if negative_ratio < 0:
            raise ValueError(f"MultiboxLoss: negative_ratio must be 0 or more; got {negative_ratio}")
        self.register_buffer("default_boxes", default_boxes, persistent=False)
        self.coder = coder or BoxCoder()
        self.iou_threshold = iou_threshold
        self.negative_ratio = negative_ratio

    def extra_repr(self) -> str:
        """What tells two losses apart."""
        return f"iou_threshold={self.iou_threshold}, negative_ratio={self.negative_ratio}"

    def forward(self, output: SSDOutput, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The two parts of the loss, to be added.

        Shape:
            output locs ``(B, K, 4)``, logits ``(B, K, num_classes)``; boxes ``(B, G, 4)`` xyxy in [0, 1] with positive
            area; labels ``(B, G)`` int64, 0 marks a padding row; G may be 0.
            Returns scalars ``bbox_regression`` and ``classification``, float32.
        """
        locs, logits = output.locs, output.logits
        self._check(locs, logits, boxes, labels)
        with torch.autocast(device_type=locs.device.type, enabled=False):
            locs, logits = locs.float(), logits.float()
            matches = match_default_boxes(boxes, labels, self.default_boxes, iou_threshold=self.iou_threshold)
            matched = matches >= 0
            chosen = matched | hard_negative_mask(_background_loss(logits), matched, ratio=self.negative_ratio)
            num_matched = matched.sum().clamp(min=1)
            return {
                "bbox_regression": self._box_loss(locs, boxes, matches, matched) / num_matched,
                "classification": _class_loss(logits, labels, matches, chosen) / num_matched,
            }

    def _check(self, locs: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor) -> None:
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

    def _box_loss(self, locs: Tensor, boxes: Tensor, matches: Tensor, matched: Tensor) -> Tensor:
        if boxes.shape[1] == 0:
            return locs.sum() * 0.0
        rows, weight = _rows(matched)
        default_boxes = self.default_boxes.expand(*matches.shape, 4).flatten(0, 1)[rows]
        own = boxes.gather(1, matches.clamp(min=0)[..., None].expand(-1, -1, 4)).flatten(0, 1)[rows]
        if (
            weight is not None
        ):  # unmatched rows stand in the sum too: give them a target that encodes to a finite number
            own = torch.where(weight[:, None], own, own.new_tensor((0.0, 0.0, 1.0, 1.0)))
        loss = F.smooth_l1_loss(locs.flatten(0, 1)[rows], self.coder.encode(own, default_boxes), reduction="none")
        return loss.sum() if weight is None else (loss * weight[:, None]).sum()


def _rows(mask: Tensor) -> tuple[Tensor | slice, Tensor | None]:
    """Rows to compute on and their weight: the chosen ones on a CPU, all of them where counting would wait."""
    if mask.device.type == "cpu":
        return mask.flatten().nonzero().squeeze(1), None
    return slice(None), mask.flatten()


@torch.no_grad()
def _background_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of each box if it were background, ``(B, K)``."""
    rows = logits.flatten(0, 1)
    blocks = rows.split(_CPU_BLOCK) if rows.device.type == "cpu" else (rows,)
    return torch.cat([block.logsumexp(dim=-1) - block[:, 0] for block in blocks]).unflatten(0, logits.shape[:2])


def _class_loss(logits: Tensor, labels: Tensor, matches: Tensor, chosen: Tensor) -> Tensor:
    padded = torch.cat((labels, labels.new_zeros(labels.shape[0], 1)), dim=1)  # match −1 reads the background
    wanted = padded.gather(1, torch.where(matches < 0, labels.shape[1], matches)).flatten()
    rows, weight = _rows(chosen)
    if weight is not None:
        wanted = wanted.masked_fill(~weight, -100)
    return F.cross_entropy(logits.flatten(0, 1)[rows], wanted[rows], ignore_index=-100, reduction="sum")
