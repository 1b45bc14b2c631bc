"""This file is about the matcher: which default box answers for which ground truth."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 8  # of handing out the forced matches; chains of more than nine ground truths after one box are unheard of


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners of boxes given by centre and size, ``(…, 4)``."""
    half = boxes[..., 2:] / 2
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), dim=-1)


def pairwise_iou(boxes: Tensor, default_boxes_xyxy: Tensor) -> Tensor:
    """Intersection over union of every box with every default box.

    Holds three numbers a pair at a time, not the four corners of every intersection.

    Shape:
        boxes ``(B, G, 4)`` xyxy; default_boxes_xyxy ``(K, 4)``; output ``(B, G, K)``. A box without area gets 0.
    """
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)  # (B, G, 1) each
    dx1, dy1, dx2, dy2 = default_boxes_xyxy.unbind(-1)  # (K,) each
    width = torch.minimum(x2, dx2).sub_(torch.maximum(x1, dx1)).clamp_(min=0)
    height = torch.minimum(y2, dy2).sub_(torch.maximum(y1, dy1)).clamp_(min=0)
    inter = width.mul_(height)
    union = torch.sub((x2 - x1) * (y2 - y1) + (dx2 - dx1) * (dy2 - dy1), inter, out=height)
    return inter.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


@torch.no_grad()
def match_default_boxes(boxes: Tensor, labels: Tensor, default_boxes: Tensor, *, iou_threshold: float = 0.5) -> Tensor:
    """Assign each default box a ground truth or the background, for all images of a batch at once.

    1. A default box takes the ground truth with which it has the largest IoU, if that is ``iou_threshold`` or more.
    2. Every ground truth keeps at least one default box, whatever the IoU: it asks for its best one; where several
       ask for the same, the largest IoU gets it and the others ask for their next best. This is Caffe's greedy
       bipartite matching. It wins over rule 1.

    Ties go to the lower index, of the ground truth and of the default box. Runs without waiting for the device.

    Args:
        iou_threshold: smallest IoU of rule 1, in [0, 1].

    Shape:
        boxes ``(B, G, 4)`` xyxy in [0, 1]; labels ``(B, G)`` with 0 for padding rows; default_boxes ``(K, 4)`` cxcywh;
        output ``(B, K)`` int64: the place of the ground truth in its image, −1 for background.

    Differs from Caffe: after eight rounds of rule 2 those who still share a box take their best free one among the
    boxes whose number is theirs modulo G, which no two ground truths of an image share.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.2; ``bbox_util.cpp`` ``MatchBBox`` (weiliu89/caffe).

    Example:
        >>> default_boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
        >>> boxes = torch.tensor([[[0.0, 0.0, 0.4, 1.0], [0.0, 0.0, 0.5, 1.0]]])
        >>> match_default_boxes(boxes, torch.tensor([[7, 7]]), default_boxes).tolist()
        [[1, 0]]
    """
    num_images, num_truths = labels.shape
    num_default = default_boxes.shape[0]
    if num_truths == 0:
        return labels.new_full((num_images, num_default), -1)
    valid = labels > 0
    iou = pairwise_iou(boxes, cxcywh_to_xyxy(default_boxes)).masked_fill_(~valid[..., None], -1.0)
    best_iou, best_truth = iou.max(dim=1)
    matches = torch.where(best_iou >= iou_threshold, best_truth, -1)

    forced = _forced_default_boxes(iou, valid).masked_fill(~valid, num_default)  # padding rows write to a spare column
    matches = torch.cat((matches, matches.new_empty(num_images, 1)), dim=1)
    truths = torch.arange(num_truths, device=labels.device).expand_as(forced)
    return matches.scatter_(1, forced, truths)[:, :num_default]


def _forced_default_boxes(iou: Tensor, valid: Tensor) -> Tensor:
    """The default box that each ground truth keeps, ``(B, G)``, no two alike in an image. Overwrites ``iou``."""
    num_truths, num_default = iou.shape[1:]
    host_can_look = iou.device.type == "cpu"  # elsewhere a look would wait for the device
    for _ in range(min(_ROUNDS, num_truths)):
        value, wanted = iou.max(dim=2)
        beaten = _beaten(value, wanted, valid)
        if host_can_look and not beaten.any():
            return wanted
        iou.scatter_(2, wanted[..., None], torch.where(beaten, -1.0, value)[..., None])
    value, wanted = iou.max(dim=2)
    beaten = _beaten(value, wanted, valid)
    held = torch.zeros(iou.shape[0], num_default + 1, dtype=torch.bool, device=iou.device)
    held = held.scatter_(1, wanted.masked_fill(beaten | ~valid, num_default), True)[:, :num_default]
    own = (
        torch.arange(num_default, device=iou.device) % num_truths
        == torch.arange(num_truths, device=iou.device)[:, None]
    )
    free = iou.masked_fill_(~own | held[:, None], -2.0)
    return torch.where(beaten, free.argmax(dim=2), wanted)


def _beaten(value: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """Ground truths that ask for a box which another one with a larger IoU (or as large, and earlier) asks for."""
    same = (wanted[:, :, None] == wanted[:, None, :]) & valid[:, None, :]
    mine, other = value[:, :, None], value[:, None, :]
    earlier = torch.ones(same.shape[1:], dtype=torch.bool, device=same.device).tril(-1)
    return (same & ((other > mine) | ((other == mine) & earlier))).any(dim=2) & valid
