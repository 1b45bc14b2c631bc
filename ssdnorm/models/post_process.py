"""This file is about post-processing: from raw output to detections."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.boxes.waiting import host_may_look
from ssdnorm.structures import Detections, SSDOutput

_FIRST_CANDIDATES = 1000  # best-scored candidates of an image that are looked at first; nearly always enough


class PostProcess(nn.Module):
    """Decode, drop low scores, keep the ``top_k`` of each class, suppress overlaps in each class, keep the best.

    The order of the steps and their result are those of Caffe's DetectionOutput and of torchvision's SSD. The work is
    done on the whole batch, and only on candidates that can still matter: whether a detection is kept depends on
    higher scores alone, so the best-scored candidates are enough as soon as they yield ``max_detections``.

    Args:
        default_boxes: the boxes that the output refers to.
        coder: how offsets are encoded.
        score_threshold: detections need a score above it, in [0, 1).
        nms_threshold: of two boxes of a class with a larger IoU the one with the lower score goes, in [0, 1].
        top_k: candidates of a class that enter the suppression.
        max_detections: detections kept per image.

    Shape:
        default_boxes ``(K, 4)`` cxcywh in [0, 1]; see :meth:`forward` for the rest.

    Sources:
        W. Liu et al., SSD (arXiv:1512.02325), section 2.2 and 3.7: 0.01, 0.45, 200; ``top_k`` 400 from ssd_pascal.py.
    """

    default_boxes: Tensor

    def __init__(
        self,
        default_boxes: Tensor,
        *,
        coder: BoxCoder | None = None,
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        top_k: int = 400,
        max_detections: int = 200,
    ) -> None:
        super().__init__()
        if not 0 <= score_threshold < 1:
            raise ValueError(f"post_process.score_threshold: must lie in [0, 1); got {score_threshold}")
        if not 0 <= nms_threshold <= 1:
            raise ValueError(f"post_process.nms_threshold: must lie in [0, 1]; got {nms_threshold}")
        for name, value in (("top_k", top_k), ("max_detections", max_detections)):
            if value < 1:
                raise ValueError(f"post_process.{name}: must be 1 or more; got {value}")
        self.register_buffer("default_boxes", default_boxes, persistent=False)
        self.coder = coder or BoxCoder()
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.top_k = top_k
        self.max_detections = max_detections

    def extra_repr(self) -> str:
        """The four numbers that decide."""
        return (
            f"score_threshold={self.score_threshold}, nms_threshold={self.nms_threshold}, top_k={self.top_k}, "
            f"max_detections={self.max_detections}"
        )

    @torch.no_grad()
    def forward(self, output: SSDOutput, sizes: Tensor) -> list[Detections]:
        """Detections of each image, best score first, clipped to the image.

        Shape:
            output locs ``(B, K, 4)``, logits ``(B, K, num_classes)``; sizes ``(B, 2)``, height and width of the
            original images in pixels, whose pixels the boxes are in.
        """
        locs, logits = output.locs.float(), output.logits.float()
        rows = self._rows_that_can_pass(logits)
        scores = logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[2])).softmax(dim=-1)[..., 1:].flatten(1)
        num_candidates = _FIRST_CANDIDATES
        while True:
            num_candidates = min(num_candidates, scores.shape[1])
            kept, complete = self._suppress(locs, rows, scores, num_candidates, sizes)
            if complete or num_candidates == scores.shape[1]:
                return kept
            num_candidates *= 2

    def _rows_that_can_pass(self, logits: Tensor) -> Tensor:
        """Boxes with a class that may exceed the threshold, ``(B, R)``, padded with boxes that have none.

        A score is at most ``exp(logit - background logit)``, so the rest needs no softmax.
        """
        margin = logits[..., 1:].amax(dim=-1) - logits[..., 0]
        bound = math.log(self.score_threshold) if self.score_threshold > 0 else -math.inf
        num_rows = int((margin > bound).sum(dim=1).amax()) if margin.numel() else 0
        return margin.topk(max(num_rows, 1), dim=1, sorted=False).indices.sort(dim=1).values

    def _suppress(
        self, locs: Tensor, rows: Tensor, scores: Tensor, num_candidates: int, sizes: Tensor
    ) -> tuple[list[Detections], bool]:
        """Detections from the best candidates, and whether more candidates could change nothing."""
        num_classes = scores.shape[1] // rows.shape[1]
        scores, candidates = scores.topk(num_candidates, dim=1)
        labels = candidates % num_classes + 1
        rows = rows.gather(1, candidates // num_classes)
        locs = locs.gather(1, rows[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(locs, self.default_boxes[rows]).clamp_(0.0, 1.0)
        ranks = torch.arange(num_candidates, device=scores.device).expand_as(labels)
        scored = possible = scores > self.score_threshold
        if num_candidates > self.top_k:
            possible = scored & (_rank_within_class(labels, ranks) < self.top_k)

        kept = self._nms(boxes, scores, labels, possible, num_classes)
        place = kept.cumsum(dim=1)  # 1 for the best that is kept, and so on
        numbers, more = torch.stack((place[:, -1], scored[:, -1])).tolist()
        complete = all(n >= self.max_detections or not m for n, m in zip(numbers, more, strict=True))

        # the n-th that is kept goes to column n, all others to column 0, which nobody reads
        order = place.new_zeros(len(place), num_candidates + 1).scatter_(1, place * kept, ranks)
        order = order[:, 1 : self.max_detections + 1]
        boxes_px = boxes.unflatten(2, (2, 2)) * sizes.flip(1)[:, None, None]
        boxes_px = boxes_px.flatten(2).gather(1, order[..., None].expand(-1, -1, 4))
        parts = zip(numbers, boxes_px, scores.gather(1, order), labels.gather(1, order), strict=True)
        return [Detections(boxes=b[:n], scores=s[:n], labels=c[:n]) for n, b, s, c in parts], complete

    def _nms(self, boxes: Tensor, scores: Tensor, labels: Tensor, possible: Tensor, num_classes: int) -> Tensor:
        """Which candidates survive, ``(B, P)`` bool. Boxes of other classes and images are moved out of reach."""
        boxes, scores = boxes.double(), scores.double()
        kept = torch.zeros_like(possible)
        if host_may_look(boxes):  # a CPU's NMS takes quadratic time, so image by image
            apart = torch.add(boxes, labels[..., None], alpha=2)
            for image in range(boxes.shape[0]):
                places = possible[image].nonzero().squeeze(1)
                survivors = nms(apart[image, places], scores[image, places], self.nms_threshold)
                kept[image, places[survivors]] = True
            return kept
        # what is not possible comes after all of its class that is, so it suppresses nothing that counts
        step = num_classes + 1
        first_of_image = torch.arange(0, len(labels) * step, step, device=labels.device)
        apart = torch.add(boxes, (labels + first_of_image[:, None])[..., None], alpha=2)
        survivors = nms(apart.flatten(0, 1), scores.flatten(), self.nms_threshold)
        kept.view(-1).index_fill_(0, survivors, True)
        return kept & possible


def _rank_within_class(labels: Tensor, ranks: Tensor) -> Tensor:
    """How many earlier candidates of the same image have the same label, ``(B, P)``; ranks are 0, 1, 2 …"""
    by_label, order = labels.sort(dim=1, stable=True)
    first = torch.searchsorted(by_label, by_label)  # of the label
    return torch.empty_like(labels).scatter_(1, order, ranks - first)
