"""The goals that measurements are held to: one table for every subject and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """A number to reach.

    Args:
        what: of what, in a few words.
        bound: the number.
        unit: of the number.
        at_most: smaller is better; by default larger is.
        needs: hardware that the measurement needs, where not every machine has it.
        note: what else a reader must know.

    Example:
        >>> Goal("speed", 2.5).verdict(2.4), Goal("syncs", 4, "", at_most=True).verdict(3)
        ('not met', 'met')
    """

    what: str
    bound: float
    unit: str = "×"
    at_most: bool = False
    needs: str = ""
    note: str = ""

    def verdict(self, measured: float | None) -> str:
        """Whether a measured number reaches the goal, in words; None was not measured."""
        if measured is None:
            return "not measured"
        return "met" if (measured <= self.bound if self.at_most else measured >= self.bound) else "not met"


_BF16, _GPU = "a processor with bf16 instructions", "a GPU"
_CALLED_BY = "the loop over images and classes of chainercv, rewritten; its own code took about a seventh longer"

# "<subject>.<number>": a subject fills in its own
GOALS: Mapping[str, Goal] = {
    "training_step.fp32": Goal("training step, full width, fp32, over torchvision's fp32", 1.1),
    "training_step.bf16": Goal("training step, full width, bf16, over torchvision's fp32", 4, needs=_BF16),
    "training_step.gpu_rate": Goal("training on a GPU, batch 64", 1400, "images/s", needs=_GPU),
    "training_step.gpu_speed": Goal("training step on a GPU, batch 64, over torchvision's in bf16", 3, needs=_GPU),
    "training_step.gpu_share": Goal(
        "training step on a GPU, batch 64, of the bf16 convolution rate", 0.45, "", needs=_GPU
    ),
    "loader.share": Goal("training on a GPU from JPEGs, batch 64, of synthetic batches", 0.9, "", needs=_GPU),
    "predict.fp32": Goal("predict on a folder of JPEGs, fp32, over one picture at a time with torchvision", 2),
    "predict.bf16": Goal("predict on a folder of JPEGs, bf16, over one picture at a time", 4, needs=_BF16),
    "startup.help": Goal("ssdnorm --help, processor time", 1, "s", at_most=True),
    "startup.train_help": Goal("ssdnorm train --help, processor time", 2, "s", at_most=True),
    "startup.import": Goal("import ssdnorm, processor time above import torch", 0.3, "s", at_most=True),
    "pipeline.v1": Goal("JPEG to training tensor, over torchvision's transforms v1 (PIL)", 5),
    "pipeline.v2": Goal("JPEG to training tensor, over torchvision's transforms v2 (tv_tensors)", 8),
    "reading.seconds": Goal("reading an annotation file as large as train2017's", 20, "s", at_most=True),
    "evaluation.seconds": Goal("COCO evaluation from files, 5000 images, processor time", 2, "s", at_most=True),
    "evaluation.difference": Goal("COCO evaluation, difference to pycocotools", 0, "", at_most=True),
    "voc.speed": Goal("VOC2007 AP, 4952 images, over a loop over images and classes", 6, note=_CALLED_BY),
    "voc.difference": Goal("VOC2007 AP, difference to the loop", 1e-12, "", at_most=True),
    "loss.speed": Goal("loss, forward and backward, over torchvision's, slowest row", 1),
    "post_process.speed": Goal("post-processing, over torchvision's, slowest row", 1),
    "l2_norm.speed": Goal("L2Norm, over amdegroot's formula, slowest row", 1),
    "l2_norm.gpu_copy": Goal("L2Norm forward on a GPU, of the rate of a copy", 0.8, "", needs=_GPU),
    "operations.loss": Goal("loss, operations at any batch size", 120, "", at_most=True),
    "operations.loss_syncs": Goal("loss, host syncs at any batch size", 0, "", at_most=True),
    "operations.post_process": Goal("post-processing, 20 objects, operations at any batch size", 60, "", True),
    "operations.post_process_syncs": Goal("post-processing, 20 objects, host syncs", 4, "", at_most=True),
    "operations.crowded": Goal("post-processing, 200 objects, operations at any batch size", 110, "", at_most=True),
    "operations.crowded_syncs": Goal("post-processing, 200 objects, host syncs", 5, "", at_most=True),
}
