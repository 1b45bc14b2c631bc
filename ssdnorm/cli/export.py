"""Export a detector as an ONNX or torch.export file.

examples:
  ssdnorm export --checkpoint model.safetensors --output model.onnx --detections
  ssdnorm export --checkpoint model.safetensors --output model.pt2

The suffix of --output decides: .onnx, or .pt2 for torch.export. Any batch size; mean and std are inside.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ssdnorm.cli.checks import add_allow_norm, output_file, stored_thresholds, threshold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, type=Path, help="of this library or another SSD")
    parser.add_argument("--output", required=True, type=output_file, help="FILE.onnx or FILE.pt2")
    parser.add_argument("--detections", action="store_true", help="decoding and NMS inside; otherwise raw outputs")
    parser.add_argument(
        "--input", choices=("uint8", "float32"), default="uint8", help="RGB 0 … 255, or floats in [0, 1] (uint8)"
    )
    parser.add_argument(
        "--threshold",
        type=threshold,
        metavar="SCORE",
        help="of the detections inside, or best for the one of each class in the checkpoint; default: the checkpoint's",
    )
    parser.add_argument("--opset", type=int, help="of ONNX, 18 or more (18)")
    add_allow_norm(parser)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Load, export, print what was written."""
    if arguments.output.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"--output: the file ends in .onnx or .pt2; got {arguments.output}")
    if arguments.output.suffix == ".pt2" and arguments.opset is not None:
        raise ValueError("--opset: is ONNX's; a .pt2 file has none")
    if arguments.threshold is not None and not arguments.detections:
        raise ValueError("--threshold: belongs to --detections; raw outputs have all scores")

    from ssdnorm.detector import load_detector
    from ssdnorm.models.export import OPSET, ExportedNetwork, export_onnx, export_torch

    detector = load_detector(arguments.checkpoint, custom_norms=arguments.allow_norm)
    class_thresholds = None
    if arguments.threshold == "best":
        class_thresholds = stored_thresholds(detector.thresholds, detector.class_names, arguments.checkpoint)
        detector.post_process.score_threshold = min(class_thresholds)
    elif arguments.threshold is not None:
        detector.post_process.score_threshold = arguments.threshold
    network = ExportedNetwork(
        detector.model,
        detector.post_process,
        class_names=detector.class_names,
        antialias=detector.antialias,
        detections=arguments.detections,
        input_dtype=arguments.input,
        thresholds=detector.thresholds,
        class_thresholds=class_thresholds,
    )
    if arguments.output.suffix == ".onnx":
        export_onnx(network, arguments.output, opset=OPSET if arguments.opset is None else arguments.opset)
    else:
        export_torch(network, arguments.output)
    shape, outputs = ", ".join(map(str, network.image_shape)), ", ".join(network.output_names)
    megabytes = arguments.output.stat().st_size / 1e6
    print(f"written: {arguments.output} ({megabytes:.1f} MB): images (B, {shape}) {arguments.input} -> {outputs}")
