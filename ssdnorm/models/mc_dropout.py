"""This file is about Monte-Carlo dropout: detections averaged over random dropouts, and how far these disagree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssdnorm.detector import Detector
from ssdnorm.layers.dropout import enable_dropout
from ssdnorm.structures import Detections, SSDOutput


class UncertainDetections(Detections):
    """Detections with ``score_std`` ``(D,)``: the standard deviation of each score over the samples, in [0, 0.5]."""

    score_std: Tensor


@torch.no_grad()
def mc_dropout_detections(
    detector: Detector, images: Sequence[Tensor], num_samples: int = 10
) -> list[UncertainDetections]:
    """Detections from the mean of several passes, in each of which dropout draws anew.

    Class probabilities and offsets are averaged default box by default box, then post-processed once; so one object
    stays one detection. Everything but dropout is in eval mode; modes come back afterwards. The draws come from
    PyTorch's global generator: ``torch.manual_seed`` makes them repeatable. The cost is that of ``num_samples`` passes.

    Sources:
        Y. Gal and Z. Ghahramani, Dropout as a Bayesian Approximation (arXiv:1506.02142).

    Differs from D. Miller et al., Dropout Sampling for Robust Object Detection (arXiv:1710.06677), who group the final
    detections of all passes by overlap; an SSD's default boxes are the same in every pass and need no grouping.

    Args:
        detector: with dropout above 0.
        images: as for ``Detector``.
        num_samples: passes, 1 or more; the standard deviation of one pass is 0.

    Returns:
        For each image what ``Detector`` gives, with ``score_std`` beside.

    Raises:
        ValueError: num_samples below 1, or a model without dropout.
    """
    return mc_dropout_batch(detector, *detector.prepare(images), num_samples)


@torch.no_grad()
def mc_dropout_batch(detector: Detector, batch: Tensor, sizes: Tensor, num_samples: int) -> list[UncertainDetections]:
    """:func:`mc_dropout_detections` of a batch that has the network's size already.

    Shape:
        batch ``(B, 3, S, S)``; sizes ``(B, 2)``, height and width of the original images in pixels.
    """
    if num_samples < 1:
        raise ValueError(f"mc_dropout_detections: num_samples is 1 or more; got {num_samples}")
    with enable_dropout(detector.model):
        outputs = [detector.model(batch) for _ in range(num_samples)]
    samples = torch.stack([output.logits.float().softmax(dim=-1) for output in outputs])
    # the softmax of the logarithm of probabilities is these probabilities
    logits = samples.mean(dim=0).clamp_min(torch.finfo(samples.dtype).tiny).log()
    locs = torch.stack([output.locs.float() for output in outputs]).mean(dim=0)
    found = detector.post_process(SSDOutput(locs, logits), sizes)
    probabilities, spread = logits.softmax(dim=-1), samples.std(dim=0, correction=0)
    return [
        UncertainDetections(
            boxes=one["boxes"],
            scores=one["scores"],
            labels=one["labels"],
            score_std=_spread_of(one, probabilities[i], spread[i]),
        )
        for i, one in enumerate(found)
    ]


def _spread_of(found: Detections, probabilities: Tensor, spread: Tensor) -> Tensor:
    """Each detection's entry of ``spread`` ``(K, num_classes)``: that of the default box with its very score."""
    of_label = probabilities[:, found["labels"]]  # (K, D)
    rows = (of_label - found["scores"]).abs().argmin(dim=0)
    return spread[rows, found["labels"]]
