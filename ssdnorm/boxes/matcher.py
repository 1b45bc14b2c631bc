"""This file is about the matcher: which default box answers for which ground truth."""

from __future__ import annotations

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from ssdnorm.boxes.waiting import host_may_look

_ROUNDS = 5  # of asking for a default box on a GPU; chains of more ground truths after one box are rare
_AT_ONCE = 16  # ground truths on a CPU: what they overlap stays in its cache


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners of boxes given by centre and size, ``(…, 4)``."""
    half = boxes[..., 2:] / 2
    return torch.cat((boxes[..., :2] - half, boxes[..., :2] + half), dim=-1)


def pairwise_iou(boxes: Tensor, default_boxes_xyxy: Tensor) -> Tensor:
    """Intersection over union of every box with every default box.

    Holds two numbers a pair at a time, not the four corners of every intersection.

    Shape:
        boxes ``(…, G, 4)`` xyxy; default_boxes_xyxy ``(K, 4)``; output ``(…, G, K)``. A box without area gets 0.
    """
    x1, y1, x2, y2 = default_boxes_xyxy.t().contiguous()
    return _iou(boxes, torch.stack((x1, y1, x2, y2, (x2 - x1) * (y2 - y1))))


def default_box_columns(default_boxes: Tensor) -> Tensor:
    """What the matcher reads of default boxes: x1, y1, x2, y2 and the area, side by side, as they are read fastest.

    Shape:
        default_boxes ``(K, 4)`` cxcywh; output ``(5, K)``.
    """
    cx, cy, width, height = default_boxes.t().contiguous()
    return torch.stack((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2, width * height))


def _iou(boxes: Tensor, columns: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)  # (…, G, 1) each
    dx1, dy1, dx2, dy2, default_area = columns  # (K,) each
    width = torch.minimum(x2, dx2).sub_(torch.maximum(x1, dx1)).clamp_(min=0)
    height = torch.minimum(y2, dy2).sub_(torch.maximum(y1, dy1)).clamp_(min=0)
    inter = width.mul_(height)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1, keepdim=True)
    union = torch.add(area, default_area, out=height).sub_(inter)
    return inter.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


@torch.no_grad()
def match_default_boxes(boxes: Tensor, labels: Tensor, default_boxes: Tensor, *, iou_threshold: float = 0.5) -> Tensor:
    """Assign each default box a ground truth or the background, for all images of a batch.

    1. A default box takes the ground truth with which it has the largest IoU, if that is ``iou_threshold`` or more.
    2. Every ground truth keeps at least one default box, whatever the IoU: it asks for its best one; where several
       ask for the same, the largest IoU gets it and the others ask for their next best. This is Caffe's greedy
       bipartite matching. It wins over rule 1.

    Ties go to the lower index, of the ground truth and of the default box. On a GPU all images are done at once,
    without waiting for the device; on a CPU image by image and a few ground truths at a time, which stays in the cache.

    Args:
        iou_threshold: smallest IoU of rule 1, in [0, 1].

    Shape:
        boxes ``(B, G, 4)`` xyxy in [0, 1]; labels ``(B, G)`` with 0 for padding rows; default_boxes ``(K, 4)`` cxcywh;
        output ``(B, K)`` int64: the place of the ground truth in its image, −1 for background.

    Differs from Caffe on a GPU alone, and only where six or more ground truths of an image are after the same default
    boxes (seven copies of a box, say): who is turned down in the fifth round of rule 2 takes its best box that nobody
    has asked for among those whose number is its own modulo G, which no two ground truths of an image share. If all of
    these were asked for, as can be with fewer than a few default boxes per ground truth, it may go without.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.2; ``bbox_util.cpp`` ``MatchBBox`` (weiliu89/caffe).

    Example:
        >>> default_boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
        >>> boxes = torch.tensor([[[0.0, 0.0, 0.4, 1.0], [0.0, 0.0, 0.5, 1.0]]])
        >>> match_default_boxes(boxes, torch.tensor([[7, 7]]), default_boxes).tolist()
        [[1, 0]]
    """
    return match_columns(boxes, labels, default_box_columns(default_boxes), iou_threshold=iou_threshold)


@torch.no_grad()
def match_columns(boxes: Tensor, labels: Tensor, columns: Tensor, *, iou_threshold: float) -> Tensor:
    """:func:`match_default_boxes` for those who keep :func:`default_box_columns` from one call to the next."""
    num_images, num_truths = labels.shape
    num_default = columns.shape[1]
    if num_truths == 0:
        return labels.new_full((num_images, num_default), -1, dtype=torch.int64)
    if host_may_look(boxes):
        images = zip(boxes, labels.tolist(), strict=True)
        return torch.stack([_match_image(b, names, columns, iou_threshold) for b, names in images])
    padding = labels <= 0
    iou = _iou(boxes, columns).masked_fill_(padding[..., None], -1.0)
    best_iou, matches = iou.max(dim=1)
    matches = matches.masked_fill_(best_iou < iou_threshold, -1)
    forced = _share_out(iou).masked_fill_(padding, num_default)  # padding rows write to a spare column
    truths = torch.arange(num_truths, device=labels.device).expand_as(forced)
    return torch.cat((matches, matches[:, :1]), dim=1).scatter_(1, forced, truths)[:, :num_default]


def _match_image(boxes: Tensor, labels: list[int], columns: Tensor, iou_threshold: float) -> Tensor:
    """The matches of one image, ``(K,)``, computed on its ground truths without the padding, a few at a time."""
    truths = [truth for truth, label in enumerate(labels) if label > 0]
    matches = torch.full(columns.shape[1:], -1)
    if not truths:
        return matches
    boxes = boxes[: len(truths)] if truths[-1] < len(truths) else boxes[truths]
    parts = [_iou(part, columns) for part in boxes.split(_AT_ONCE)]
    best_iou = reduce(torch.maximum, [part.amax(dim=0) for part in parts])
    covered = (best_iou >= iou_threshold).nonzero().squeeze(1)  # few: only they need to know by which
    matches[covered] = torch.cat([part[:, covered] for part in parts]).max(dim=0).indices
    wanted = np.concatenate([part.numpy().argmax(axis=1) for part in parts])  # ten times as fast as PyTorch's
    if len(set(wanted.tolist())) == len(wanted):
        matches[torch.from_numpy(wanted)] = torch.arange(len(wanted))
    else:
        holders = _holders([row for part in parts for row in part.numpy()])
        matches[list(holders)] = torch.tensor(list(holders.values()))
    return matches if truths[-1] < len(truths) else torch.tensor([*truths, -1])[matches]


def _holders(ious: list[np.ndarray]) -> dict[int, int]:
    """Which ground truth keeps which default box, by box: who is turned down asks for the next. Overwrites ``ious``.

    Args:
        ious: of each ground truth with all default boxes.
    """
    holders: dict[int, int] = {}
    asking = list(range(len(ious)))
    while asking:
        asks = asking.pop()
        box = int(ious[asks].argmax())
        if ious[asks][box] < 0:
            continue  # more ground truths than default boxes
        holds = holders.setdefault(box, asks)
        if holds != asks:
            holders[box], goes = sorted((asks, holds), key=lambda truth: (-ious[truth][box], truth))
            ious[goes][box] = -1.0
            asking.append(goes)
    return holders


def _share_out(iou: Tensor) -> Tensor:
    """The default box that each ground truth keeps, ``(B, G)``, no two alike in an image. Overwrites ``iou``.

    A box remembers the strongest claim that was ever made on it. In each round every ground truth asks for the best
    box that has not turned it down; a claim weaker than the remembered one is turned down. Padding rows have IoU −1.
    """
    num_images, num_truths, num_default = iou.shape
    # earlier ground truths ask a hair louder: by less than IoUs in float32 differ, but for those below 1e-4
    louder = torch.arange(num_truths, 0, -1, device=iou.device, dtype=torch.float64) * 2.0**-50
    claims = iou.new_zeros(num_images, num_default, dtype=torch.float64)
    for round_ in range(1, _ROUNDS + 1):
        value, wanted = iou.max(dim=2)
        claim = value + louder
        turned_down = claim < claims.scatter_reduce_(1, wanted, claim, "amax").gather(1, wanted)
        if round_ == _ROUNDS:
            break
        iou.scatter_(2, wanted[..., None], value.masked_fill_(turned_down, -1.0)[..., None])
    rows = num_default // num_truths
    if rows == 0:
        return wanted
    size = rows * num_truths
    own = iou[..., :size].unflatten(2, (rows, num_truths)).diagonal(dim1=1, dim2=3)  # (B, rows, G)
    free = own.masked_fill(claims[:, :size].unflatten(1, (rows, num_truths)) > 0, -2.0)
    spare = torch.add(torch.arange(num_truths, device=iou.device), free.argmax(dim=1), alpha=num_truths)
    return torch.where(turned_down, spare, wanted)
