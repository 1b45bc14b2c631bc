"""The network behind ``ssdnorm predict``: of a checkpoint or of an ONNX file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssdnorm.cli.checks import parse_device, stored_thresholds
from ssdnorm.detector import compile_for_inference, load_detector
from ssdnorm.engine.precision import choose_precision
from ssdnorm.models.mc_dropout import mc_dropout_detections
from ssdnorm.models.onnx_detector import OnnxDetector
from ssdnorm.resize import height_and_width, resize_image
from ssdnorm.structures import Detections

_NOT_WITH_ONNX = {
    "device": "onnxruntime chooses the device of an ONNX file; omit --device",
    "mc-dropout": "an ONNX file has no dropout; give --checkpoint",
    "compile": "an ONNX file is compiled already; give --checkpoint",
    "allow-norm": "an ONNX file names no classes; give --checkpoint",
    "precision": "an ONNX file has its own; give --checkpoint",
}


@dataclass(frozen=True)
class Predictor:
    """A network with its classes, and which of its detections are shown.

    Args:
        prepare: image ``(3, H, W)`` uint8 → input ``(1, 3, S, S)`` and size ``(1, 2)``; called in threads.
        detect: inputs ``(B, 3, S, S)``, sizes ``(B, 2)`` → detections.
        class_names: of the labels 1, 2, …
        thresholds: the score above which detections of each label are shown, ``(num_classes,)``; 0 is the background.
    """

    prepare: Callable[[Tensor], tuple[Tensor, Tensor]]
    detect: Callable[[Tensor, Tensor], list[Detections]]
    class_names: tuple[str, ...]
    thresholds: Tensor


def predictor_of_checkpoint(arguments: argparse.Namespace) -> Predictor:
    """The detector of ``--checkpoint``, with its batch norms folded, on ``--device``."""
    device = parse_device(arguments.device)
    if arguments.compile and arguments.mc_dropout is not None:
        raise ValueError("--compile: does not go with --mc-dropout, whose dropout stays random")
    detector = load_detector(arguments.checkpoint, fold=True, custom_norms=arguments.allow_norm)
    thresholds = _thresholds(arguments.threshold, detector.thresholds, detector.class_names, arguments.checkpoint)
    prepare = detector.prepare  # on the CPU, where the threads are
    detector.post_process.score_threshold = float(thresholds[1:].min())
    precision = arguments.precision or "32-true"
    if precision == "auto":
        precision = choose_precision(device.type)
    reduced = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16-mixed")
    detector = detector.to(device)
    batch_size = arguments.batch_size
    if arguments.compile:
        height, width = prepare([torch.zeros(3, 8, 8, dtype=torch.uint8)])[0].shape[-2:]
        example, _ = prepare([torch.zeros(3, height, width, dtype=torch.uint8)] * batch_size)
        with reduced:
            compile_for_inference(detector.model, example.to(device))

    def detect(images: Tensor, sizes: Tensor) -> list[Detections]:
        number = len(images)
        if arguments.compile and number < batch_size:  # another shape would be compiled anew
            images, sizes = (x[torch.arange(batch_size).clamp(max=number - 1)] for x in (images, sizes))
        images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        sizes = sizes.to(device, non_blocking=True)
        with reduced:
            if arguments.mc_dropout is not None:
                model, post_process = detector.model, detector.post_process
                return [*mc_dropout_detections(model, post_process, images, sizes, arguments.mc_dropout)]
            output = detector.model(images)
        found: list[Detections] = detector.post_process(output, sizes)
        return found[:number]

    return Predictor(lambda image: prepare([image]), detect, detector.class_names, thresholds)


def predictor_of_onnx(arguments: argparse.Namespace) -> Predictor:
    """The exported detector of ``--onnx``; ``ValueError`` for options that it has no use for."""
    for option, reason in _NOT_WITH_ONNX.items():
        if getattr(arguments, option.replace("-", "_")):
            raise ValueError(f"--{option}: {reason}")
    onnx = OnnxDetector(arguments.onnx)
    thresholds = _thresholds(arguments.threshold, onnx.thresholds, onnx.class_names, arguments.onnx)
    lowest = float(thresholds[1:].min())
    if onnx.output == "raw":
        onnx.post_process.score_threshold = lowest
    elif lowest < (inside := onnx.post_process.score_threshold):
        raise ValueError(f"--threshold: the detections inside of {arguments.onnx} begin at {inside:g}")

    def prepare(image: Tensor) -> tuple[Tensor, Tensor]:
        resized = resize_image(image, *height_and_width(onnx.image_size), antialias=onnx.antialias)
        return resized[None], torch.tensor([image.shape[-2:]])

    return Predictor(prepare, onnx, onnx.class_names, thresholds)


def _thresholds(
    asked: float | str, stored: Mapping[str, float] | None, class_names: Sequence[str], where: Path
) -> Tensor:
    """By label, background first: those stored in the file with ``best``, else one for all."""
    of_classes = stored_thresholds(stored, class_names, where) if asked == "best" else [float(asked)] * len(class_names)
    return torch.tensor([0.0, *of_classes], dtype=torch.float64)
