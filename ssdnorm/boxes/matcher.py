"""Match ground-truth boxes to default boxes."""

from __future__ import annotations

import torch
from torch import Tensor

_DROPPED = -(2**62)  # below the key of every pair
_CPU_PAIRS = 3 << 20  # matched at once on a CPU, whose caches and heap hold no more


def default_box_iou(boxes: Tensor, default_boxes: Tensor) -> Tensor:
    """Intersection over union of every box with every default box.

    Holds at most three numbers per pair, not the four corners of every intersection.

    Shape:
        boxes ``(…, G, 4)`` xyxy; default_boxes ``(K, 4)`` cxcywh with positive area; output ``(…, G, K)``.
    """
    centre, size = default_boxes.t().contiguous().split(2)
    (dx1, dy1), (dx2, dy2) = torch.sub(centre, size, alpha=0.5), torch.add(centre, size, alpha=0.5)
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)  # (…, G, 1) each
    width = torch.minimum(x2, dx2).sub_(torch.maximum(x1, dx1)).clamp_(min=0)
    height = torch.minimum(y2, dy2).sub_(torch.maximum(y1, dy1)).clamp_(min=0)
    inter = width.mul_(height)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1, keepdim=True)
    union = torch.add(area, size[0] * size[1], out=height).sub_(inter)
    return inter.div_(union)


@torch.no_grad()
def match_default_boxes(boxes: Tensor, labels: Tensor, default_boxes: Tensor, *, iou_threshold: float = 0.5) -> Tensor:
    """Assign each default box of each image a ground truth or the background.

    1. A default box takes the ground truth with which it has the largest IoU, if that is ``iou_threshold`` or more.
    2. Every ground truth keeps one default box, whatever the IoU, by greedy bipartite matching: of all pairs in an
       image, the pair with the largest IoU is matched first; its ground truth and its default box leave, and the
       largest IoU among the others follows. This overrides rule 1. Ground truths go without a default box only where
       they outnumber them.

    Ties go to the lower index of the ground truth, then to the lower index of the default box. IoUs are computed in
    float32. All images of the batch are matched at once, without reading a value on the host, and every device matches
    the same boxes. Greedy matching is sequential: it takes six operations per row of ground truth.

    Args:
        iou_threshold: smallest IoU of rule 1, in (0, 1].

    Shape:
        boxes ``(B, G, 4)`` xyxy in [0, 1]; labels ``(B, G)`` with 0 for padding rows; default_boxes ``(K, 4)`` cxcywh;
        output ``(B, K)`` int64: the index of the ground truth in its image, −1 for background.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.2; ``bbox_util.cpp`` ``MatchBBox`` (weiliu89/caffe).

    Example:
        >>> default_boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]])
        >>> boxes = torch.tensor([[[0.0, 0.0, 0.4, 1.0], [0.0, 0.0, 0.5, 1.0]]])
        >>> match_default_boxes(boxes, torch.tensor([[7, 7]]), default_boxes).tolist()
        [[1, 0]]
    """
    if labels.shape[1] == 0:
        return labels.new_full((len(labels), len(default_boxes)), -1, dtype=torch.int64)
    num_images = len(labels) if boxes.device.type != "cpu" else _CPU_PAIRS // (labels.shape[1] * len(default_boxes)) + 1
    parts = zip(boxes.float().split(num_images), labels.split(num_images), strict=True)
    matches = [_match(*part, default_boxes.float(), iou_threshold) for part in parts]
    return matches[0] if len(matches) == 1 else torch.cat(matches)


def _match(boxes: Tensor, labels: Tensor, default_boxes: Tensor, iou_threshold: float) -> Tensor:
    iou = default_box_iou(boxes, default_boxes)
    iou.masked_fill_((labels <= 0)[..., None], -1.0)
    pairs, values = _greedy_pairs(iou)
    best, matches = iou.flatten(1).scatter_reduce_(1, pairs, values, "amax").view_as(iou).max(dim=1)
    return matches.masked_fill_(best < iou_threshold, -1)


def _greedy_pairs(iou: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs that rule 2 matches: indices into ``(G, K)``, and values above every IoU, or below if void."""
    # Keys are compared, no two of which are equal: the bits of the IoU (those of positive floats are in the order of
    # their values), then the index of the pair, counted backwards. A ground truth needs only its best G default boxes,
    # since the others take at most G - 1 of them.
    num_truths, num_default = iou.shape[1:]
    num_pairs = num_truths * num_default
    backwards = torch.arange(num_pairs + 1, 1, -1, device=iou.device).view(num_truths, num_default)
    keys = iou.view(torch.int32).long().mul_(num_pairs).add_(backwards)  # 2 or more where the IoU is not negative
    keys = keys.topk(min(num_truths, num_default), dim=2).values
    boxes = keys % num_default
    key, truth = keys[..., 0].max(dim=1, keepdim=True)
    matched = [key]
    for _ in range(num_truths - 1):
        keys.masked_fill_(boxes == (key % num_default)[..., None], _DROPPED)
        keys.scatter_(1, truth[..., None].expand(-1, 1, keys.shape[2]), _DROPPED)
        key, truth = keys.amax(dim=2).max(dim=1, keepdim=True)
        matched.append(key)
    key = torch.cat(matched, dim=1)
    return (num_pairs + 1 - key) % num_pairs, key.float()
