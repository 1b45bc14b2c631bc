"""This file is about the multibox loss: what an SSD is trained on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.boxes.matcher import default_box_columns, match_columns
from ssdnorm.boxes.waiting import host_may_look
from ssdnorm.losses.hard_negatives import hard_negative_mask
from ssdnorm.losses.take_rows import take_rows
from ssdnorm.structures import SSDOutput

_CPU_BLOCK = 1 << 16  # numbers; so many stay in the cache, which halves the time of log_softmax
_IGNORED = -100  # the label of rows that do not count


class MultiboxLoss(nn.Module):
    r"""Smooth L1 on the offsets of matched boxes plus cross-entropy on matched boxes and hard negatives.

    .. math:: L = \frac{1}{\max(1, N)} \Big( \sum_{matched} \mathrm{smooth}_{L1}(l - \hat g)
              + \sum_{matched \cup mined} -\log p_{label} \Big)

    with N the matched boxes of the batch. A batch without objects has loss 0 and zero gradients. Half precision is
    summed in float32, also under autocast. On a GPU everything runs on all boxes of the batch at once, without waiting
    for the device; on a CPU only the chosen boxes enter the loss and its backward pass. The results are the same up to
    rounding, but may differ where six or more ground truths of an image are after the same default boxes: see
    *Differs from* in :func:`~ssdnorm.boxes.matcher.match_default_boxes`.

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
    columns: Tensor

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
        if not 0 <= negative_ratio < math.inf:
            raise ValueError(f"MultiboxLoss: negative_ratio must be 0 or more, and finite; got {negative_ratio}")
        self.register_buffer("default_boxes", default_boxes, persistent=False)
        self.register_buffer("columns", default_box_columns(default_boxes), persistent=False)
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
        if boxes.shape[1] == 0:  # one padding row, so that nothing below needs to know of an empty dimension
            boxes, labels = boxes.new_zeros(len(boxes), 1, 4), labels.new_zeros(len(labels), 1)
        with torch.autocast(device_type=locs.device.type, enabled=False):
            matches = match_columns(boxes, labels, self.columns, iou_threshold=self.iou_threshold)
            sums = self._sums_of_chosen_rows if host_may_look(logits) else self._sums_of_all_rows
            matched = matches >= 0
            box_sum, class_sum = sums(locs, logits, boxes, labels.long(), matches, matched)
            num_matched = matched.sum().clamp(min=1)
            return {"bbox_regression": box_sum / num_matched, "classification": class_sum / num_matched}

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

    def _sums_of_chosen_rows(
        self, locs: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor, matched: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both sums over the rows that count, for a host that may count them."""
        num_default, num_truths = matches.shape[1], labels.shape[1]
        chosen = matched | hard_negative_mask(_background_loss(logits), matched, ratio=self.negative_ratio)
        rows = chosen.flatten().nonzero().squeeze(1)
        match = matches.flatten()[rows]
        truth = rows // num_default * num_truths + match.clamp(min=0)  # among those of the batch
        wanted = labels.flatten()[truth].masked_fill_(match < 0, 0)
        class_sum = F.cross_entropy(_wide(take_rows(logits.flatten(0, 1), rows)), wanted, reduction="sum")

        positive = match >= 0
        rows, truth = rows[positive], truth[positive]
        target = self.coder.encode(boxes.flatten(0, 1)[truth], self.default_boxes[rows % num_default])
        got = _wide(take_rows(locs.flatten(0, 1), rows))
        return F.smooth_l1_loss(got, target.to(got.dtype), reduction="sum"), class_sum

    def _sums_of_all_rows(
        self, locs: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor, matches: Tensor, matched: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both sums over all rows, those that do not count with weight 0: no number is asked for."""
        truth = matches.clamp(min=0)
        log_p = _wide(logits).log_softmax(dim=-1)
        mined = hard_negative_mask(-log_p.detach()[..., 0], matched, ratio=self.negative_ratio)
        wanted = torch.where(matched, labels.gather(1, truth), mined * -_IGNORED + _IGNORED)
        # summed apart, as a GPU's nll_loss with a sum runs on one block
        losses = F.nll_loss(log_p.flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED, reduction="none")

        own = boxes.gather(1, truth[..., None].expand(-1, -1, 4))
        got = _wide(locs)
        target = self.coder.encode(own, self.default_boxes).to(got.dtype).masked_fill_(~matched[..., None], 0.0)
        box_losses = F.smooth_l1_loss(got, target, reduction="none")
        return (box_losses * matched[..., None]).sum(), losses.sum()


def _wide(x: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return x.float() if x.dtype.itemsize < 4 else x


@torch.no_grad()
def _background_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of each box if it were background, ``(B, K)``, block by block through one buffer."""
    rows = logits.flatten(0, 1)
    losses = rows.new_empty(len(rows), dtype=_wide(rows[:0]).dtype)
    size = max(1, _CPU_BLOCK // rows.shape[1])
    buffer = losses.new_empty(size, rows.shape[1])
    for start in range(0, len(rows), size):
        block = _wide(rows[start : start + size])
        torch.neg(torch.log_softmax(block, 1, out=buffer[: len(block)])[:, 0], out=losses[start : start + size])
    return losses.view(logits.shape[:2])
