"""Average detections over random dropouts, and measure how far these disagree (Monte-Carlo dropout)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdnorm.layers.dropout import enable_dropout
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import SSD
from ssdnorm.structures import Detections, SSDOutput


class UncertainDetections(Detections):
    """Detections with ``score_std`` ``(D,)``: the standard deviation of each score over the samples, in [0, 0.5]."""

    score_std: Tensor


@torch.no_grad()
def mc_dropout_detections(
    model: SSD, post_process: PostProcess, images: Tensor, sizes: Tensor, num_samples: int = 10
) -> list[UncertainDetections]:
    """Post-process the mean output of several passes, each with its own dropout.

    Class probabilities and offsets are averaged per default box, then post-processed once, so that one object stays one
    detection. All layers but dropout are in eval mode; modes are restored afterwards. The draws come from PyTorch's
    global generator: ``torch.manual_seed`` makes them repeatable. Costs ``num_samples`` passes.

    Sources:
        Y. Gal and Z. Ghahramani, Dropout as a Bayesian Approximation (arXiv:1506.02142).

    Differs from D. Miller et al., Dropout Sampling for Robust Object Detection (arXiv:1710.06677), who group the final
    detections of all passes by overlap; an SSD's default boxes are the same in every pass and need no grouping.

    Args:
        model: with dropout above 0.
        num_samples: passes, 1 or more; the standard deviation of one pass is 0.

    Shape:
        images ``(B, 3, H, W)``; sizes ``(B, 2)``, height and width of the original images in pixels:
        ``detector.prepare(images)`` makes both.

    Raises:
        ValueError: num_samples below 1, or a model without dropout.
    """
    if num_samples < 1:
        raise ValueError(f"mc_dropout_detections: num_samples must be 1 or more; got {num_samples}")
    with enable_dropout(model):
        outputs = [model(images) for _ in range(num_samples)]
    samples = torch.stack([output.logits.float().softmax(dim=-1) for output in outputs])
    # the softmax of the logarithm of probabilities is these probabilities
    logits = samples.mean(dim=0).clamp_min(torch.finfo(samples.dtype).tiny).log()
    locs = torch.stack([output.locs.float() for output in outputs]).mean(dim=0)
    found: list[Detections] = post_process(SSDOutput(locs, logits), sizes)
    probabilities, spread = logits.softmax(dim=-1), samples.std(dim=0, correction=0)
    return [{**one, "score_std": _spread_of(one, probabilities[i], spread[i])} for i, one in enumerate(found)]


def _spread_of(found: Detections, probabilities: Tensor, spread: Tensor) -> Tensor:
    """Each detection's entry of ``spread`` ``(K, num_classes)``: that of the default box with this score."""
    of_label = probabilities[:, found["labels"]]  # (K, D)
    rows = (of_label - found["scores"]).abs().argmin(dim=0)
    return spread[rows, found["labels"]]
