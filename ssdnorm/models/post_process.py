"""Turn raw output into detections: decode, drop low scores, suppress overlaps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.structures import Detections, SSDOutput

_FIRST_CANDIDATES = 1000  # of an image, best scores first; nearly always enough
_NMS_ROWS = 32_768  # boxes in one NMS on a GPU, which holds a bit for each pair of them


class PostProcess(nn.Module):
    """Decode, drop low scores, keep the ``top_k`` of each class, suppress overlaps per class, keep the best.

    The order of the steps and their result are those of Caffe's DetectionOutput and of torchvision's SSD. Only
    candidates that can still matter are processed: whether a detection is kept depends on higher scores alone, so the
    best candidates are enough as soon as they yield ``max_detections``. The host waits for a GPU three times if the
    first candidates are enough, and twice more each time that they are not; then four times as many are tried.

    Args:
        default_boxes: the boxes that the output refers to.
        coder: how offsets are encoded.
        score_threshold: detections need a score above it, in [0, 1).
        nms_threshold: of two boxes of a class whose IoU exceeds it, the one with the lower score is dropped; in [0, 1].
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
        score_threshold: float = 0.01,
        nms_threshold: float = 0.45,
        top_k: int = 400,
        max_detections: int = 200,
        *,
        coder: BoxCoder | None = None,
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
        self._check(output, sizes)
        locs, logits = output.locs.float(), output.logits.float()
        rows = self._rows_that_can_pass(logits)
        scores = logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[2])).softmax(dim=-1)[..., 1:]
        most = min(self.top_k, rows.shape[1]) * scores.shape[2]  # that are among the top_k of their class
        number = _FIRST_CANDIDATES if most > 2 * _FIRST_CANDIDATES else most
        while True:
            candidates = self._candidates(scores, number, among_all=most > 2 * number)
            detections, enough = self._suppress(locs, rows, candidates, scores.shape[2], sizes)
            if enough or number == most:
                return detections
            number = min(4 * number, most)

    def _check(self, output: SSDOutput, sizes: Tensor) -> None:
        batch, boxes = output.logits.shape[0], len(self.default_boxes)
        if output.locs.shape != (batch, boxes, 4) or output.logits.shape[:2] != (batch, boxes):
            got = f"locs {tuple(output.locs.shape)} and logits {tuple(output.logits.shape)}"
            raise ValueError(f"PostProcess: expected locs (B, {boxes}, 4) and logits (B, {boxes}, …); got {got}")
        if sizes.shape != (batch, 2):
            raise ValueError(f"PostProcess: expected sizes ({batch}, 2); got {tuple(sizes.shape)}")

    def _rows_that_can_pass(self, logits: Tensor) -> Tensor:
        """Boxes with a class that may exceed the threshold, ``(B, R)``, padded with boxes that have none."""
        # a score is at most exp(logit - background logit), so the other boxes need no softmax
        margin = logits[..., 1:].amax(dim=-1) - logits[..., 0]
        bound = math.log(self.score_threshold) if self.score_threshold > 0 else -math.inf
        num_rows = int((margin > bound).sum(dim=1).amax()) if margin.numel() else 0
        return margin.topk(max(num_rows, 1), dim=1, sorted=False).indices.sort(dim=1).values

    def _candidates(self, scores: Tensor, number: int, *, among_all: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The best: falling scores, labels, rows, whether they are of the ``top_k`` above the threshold, ``(B, P)``."""
        num_classes = scores.shape[2]  # without background
        if among_all:  # to find the top_k of each class first is expensive with many classes
            best, places = scores.flatten(1).topk(number, dim=1)
            labels, rows = places % num_classes + 1, places // num_classes
            return best, labels, rows, (best > self.score_threshold) & (_rank_within_class(labels) < self.top_k)
        rows = scores.topk(min(self.top_k, scores.shape[1]), dim=1, sorted=False).indices.sort(dim=1).values
        scores = scores.gather(1, rows)
        best, places = (x[:, :number] for x in scores.flatten(1).sort(dim=1, descending=True, stable=True))
        return best, places % num_classes + 1, rows.flatten(1).gather(1, places), best > self.score_threshold

    def _suppress(
        self, locs: Tensor, rows: Tensor, candidates: tuple[Tensor, ...], num_classes: int, sizes: Tensor
    ) -> tuple[list[Detections], bool]:
        """Detections from the best candidates, and whether more candidates would change nothing."""
        scores, labels, places, valid = candidates
        rows = rows.gather(1, places)
        locs = locs.gather(1, rows[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(locs, self.default_boxes[rows]).clamp_(0.0, 1.0)
        kept = self._nms(boxes, scores, labels, valid, num_classes)
        place = kept.cumsum(dim=1)  # 1 for the best that is kept, and so on
        numbers, more = torch.stack((place[:, -1], scores[:, -1] > self.score_threshold)).tolist()
        enough = all(n >= self.max_detections or not m for n, m in zip(numbers, more, strict=True))

        # the n-th that is kept goes to column n, all others to column 0, which is cut off
        ranks = torch.arange(place.shape[1], device=place.device).expand_as(place)
        order = place.new_zeros(len(place), place.shape[1] + 1).scatter_(1, place * kept, ranks)
        order = order[:, 1 : self.max_detections + 1]
        boxes_px = boxes.unflatten(2, (2, 2)) * sizes.flip(1)[:, None, None]
        boxes_px = boxes_px.flatten(2).gather(1, order[..., None].expand(-1, -1, 4))
        parts = zip(numbers, boxes_px, scores.gather(1, order), labels.gather(1, order), strict=True)
        return [Detections(boxes=b[:n], scores=s[:n], labels=c[:n]) for n, b, s, c in parts], enough

    def _nms(self, boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, num_classes: int) -> Tensor:
        """Which candidates survive, ``(B, P)`` bool. Classes and images are moved apart, so as not to overlap."""
        num_images, num_candidates = labels.shape
        group = max(1, _NMS_ROWS // num_candidates) if _groups_images(boxes) else 1
        images = torch.arange(num_images, device=labels.device)[:, None]
        shift = torch.add(labels, images, alpha=num_classes + 1)
        boxes, scores = torch.add(boxes.double(), shift[..., None], alpha=2), scores.double()
        # what is not valid takes the place of the image's best candidate, which suppresses it
        boxes = torch.where(valid[..., None], boxes, boxes[:, :1])
        kept = torch.zeros_like(valid)
        for part in zip(*(x.split(group) for x in (kept, boxes, scores)), strict=True):
            survivors = nms(part[1].flatten(0, 1), part[2].flatten(), self.nms_threshold)
            part[0].view(-1).index_fill_(0, survivors, True)
        return kept & valid


def _groups_images(boxes: Tensor) -> bool:
    """Whether one NMS takes several images: the host waits for each on a GPU; on a CPU boxes cost quadratic time."""
    return boxes.device.type != "cpu"


def _rank_within_class(labels: Tensor) -> Tensor:
    """How many earlier candidates of the same image have the same label, ``(B, P)``."""
    by_label, order = labels.sort(dim=1, stable=True)
    ranks = torch.arange(labels.shape[1], device=labels.device)
    first = torch.searchsorted(by_label, by_label)  # of the label
    return torch.empty_like(labels).scatter_(1, order, ranks - first)
