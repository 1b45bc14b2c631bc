"""Measure a network: lengths, dead channels, scales and gradients by layer, and batch norm.

  diagnose.py --run runs/x --output out
  diagnose.py --checkpoint model.safetensors --images photos/ --output out
  diagnose.py --weights vgg16.npz --images photos/ --against runs/x --output out
  diagnose.py --run runs/x --batch-norm --output out

Prints a table, and writes diagnostics.json and figures. Gradients are measured on a run's or a config's data, which has
objects. With --config every key of it can be set, e.g. --data.test.split val.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from ssdnorm.build import build_evaluator
from ssdnorm.cli.checks import parse_device
from ssdnorm.cli.diagnose_sources import Arm, Pictures, find_pictures, read_arms, read_pictures
from ssdnorm.detector import Detector
from ssdnorm.diagnose.activations import ActivationStatistics, activation_statistics, activation_table
from ssdnorm.diagnose.batch_norm import batch_norm_uses
from ssdnorm.diagnose.batch_norm_advice import BatchNormReport, batch_norm_report, batch_norm_table
from ssdnorm.diagnose.figures import plot_batch_norm, plot_depth, plot_lengths, plot_scales
from ssdnorm.diagnose.layers import find_ssd_parts, scale_table
from ssdnorm.files import write_json
from ssdnorm.layers import running_statistics
from ssdnorm.provenance import provenance
from ssdnorm.structures import Batch

log = logging.getLogger("ssdnorm.diagnose")

HELP = "measure activations, scales, gradients and batch norms of a network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    source = parser.add_argument_group("what to measure (one of)")
    source.add_argument("--run", type=Path, help="a run folder: its weights, on its test set")
    source.add_argument("--checkpoint", type=Path, help="model.safetensors of a run, or another SSD's file")
    source.add_argument("--weights", type=Path, help="VGG16's classification weights in a new SSD (of --config)")
    source.add_argument("--config", type=Path, help="alone: a new model; with another: the data to measure on")
    parser.add_argument(
        "--against", type=Path, metavar="PATH", help="a second arm: a run, a checkpoint, a config, or VGG16's .npz"
    )
    parser.add_argument("--images", nargs="+", help="pictures, folders, patterns; default: the config's test set")
    parser.add_argument("--num-images", type=int, default=32, metavar="N", help="largest number of images (32)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="images at a time (8)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="conv4_3, 'tap fc7', …, or modules by full name")
    parser.add_argument("--batch-norm", action="store_true", help="running, batch and population statistics, advice")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 …; default: cuda if available")
    parser.add_argument("--output", required=True, type=Path, help="folder for diagnostics.json and the figures")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Measure each arm, print tables, write numbers and figures."""
    for option in ("num_images", "batch_size"):
        if getattr(arguments, option) < 1:
            raise ValueError(f"--{option.replace('_', '-')}: must be 1 or more; got {getattr(arguments, option)}")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise ValueError(f"--output: {arguments.output} is a file; a folder is needed")
    files = find_pictures(arguments.images) if arguments.images is not None else []
    if not files and arguments.run is None and arguments.config is None:
        raise ValueError("--images: give pictures, or --config for the data's own")
    arms, config = read_arms(arguments, rest)
    with_batch_norm = {arm.name for arm in arms if running_statistics(arm.detector.model)}
    if arguments.batch_norm and not with_batch_norm:
        raise ValueError("--batch-norm: the model has no batch norm with running statistics")
    pictures = read_pictures(arguments, files, config, arms)
    for message in pictures.unreadable:
        print(f"not read: {message}", file=sys.stderr)
    device = parse_device(arguments.device)
    record: dict[str, Any] = {"images": pictures.names, "unreadable": pictures.unreadable, "arms": {}}
    found: dict[str, ActivationStatistics] = {}
    figures: dict[str, Figure | None] = {}
    for arm in arms:
        arm.detector.to(device)
        batches = [batch.to(device) for batch in pictures.batches(arm.detector, arguments.batch_size)]
        found[arm.name] = measure_arm(arm.detector, batches, arguments.layers)
        print(f"{arm.name}: {found[arm.name].num_images} images\n{activation_table(found[arm.name])}\n")
        weights, initial = scales_of(arm)
        if weights:
            print(f"{scale_table(weights, initial)}\n")
        record["arms"][arm.name] = {**as_json(found[arm.name]), "scales": {k: w.tolist() for k, w in weights.items()}}
        if arguments.batch_norm and arm.name not in with_batch_norm:
            print(f"{arm.name}: no batch norm with running statistics\n")
        elif arguments.batch_norm:
            report, metrics = measure_batch_norm(arm.detector, batches, pictures)
            print(f"{batch_norm_table(report)}\n{metrics_table(metrics)}")
            record["arms"][arm.name]["batch_norm"] = {**report.as_json(), "metrics": metrics}
            figures[f"batch_norm{'' if arm is arms[0] else '_against'}"] = plot_batch_norm(report)
    scales = {arm.name: scales_of(arm) for arm in arms}
    initial = {tap: value for _, values in scales.values() for tap, value in values.items()}
    figures["lengths"] = plot_lengths(found, arguments.layers)
    figures["depth"] = plot_depth(found)
    figures["scales"] = plot_scales({name: weights for name, (weights, _) in scales.items()}, initial)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write_json(arguments.output / "diagnostics.json", {**record, **provenance()})
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(arguments.output / f"{name}.png", dpi=100)
            print(arguments.output / f"{name}.png")


def measure_arm(detector: Detector, batches: Sequence[Batch], layers: Sequence[str] | None) -> ActivationStatistics:
    """Compute activation statistics in eval mode, and gradients of the multibox loss if there are objects."""
    has_objects = any(bool((batch.labels > 0).any()) for batch in batches)
    multibox = detector.loss

    def loss(output: Any, batch: Batch) -> Tensor:
        assert multibox is not None
        return torch.stack(list(multibox(output, batch.boxes, batch.labels).values())).sum()

    return activation_statistics(
        detector.model,
        tqdm(batches, desc="activations", unit="batch", disable=not sys.stderr.isatty()),
        layers=layers,
        forward=lambda model, batch: model(batch.images),
        loss=loss if has_objects and multibox is not None else None,
    )


def scales_of(arm: Arm) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights of the tap norms that have one per channel, and their initial values."""
    parts = find_ssd_parts(arm.detector.model)
    weights = {} if parts is None else parts.tap_scales()
    norms = {} if parts is None else parts.tap_norms
    return weights, {name: float(getattr(norms[name], "scale", 1.0)) for name in weights}  # 1 for all but L2Norm


def measure_batch_norm(
    detector: Detector, batches: Sequence[Batch], pictures: Pictures
) -> tuple[BatchNormReport, dict[str, dict[str, float]]]:
    """Report on the batch norms; with objects, also COCO's AP and AP50 under each of the three statistics."""
    images = [batch.images for batch in batches if len(batch) > 1]  # one image has no variance on a 1×1 map
    report, population = batch_norm_report(detector.model, images)
    metrics: dict[str, dict[str, float]] = {}
    if pictures.dataset is not None:
        evaluator = build_evaluator(pictures.dataset)
        for statistics in ("batch", "running", "population"):
            with batch_norm_uses(detector.model, statistics, population):
                detect = partial(_detect, detector)
                detections = {i: d for batch in batches if len(batch) > 1 for i, d in detect(batch).items()}
            if len(detections) == len(pictures.names):
                result = evaluator(detections)
                metrics[statistics] = {name: result.metrics[name] for name in ("AP", "AP50")}
        if not metrics:
            log.warning(
                "--batch-norm: no AP: the last batch is one image, which has no batch statistics; change --batch-size"
            )
    return report, metrics


def metrics_table(metrics: dict[str, dict[str, float]]) -> str:
    """Format the metrics, one line per kind of statistics."""
    return "".join(
        f"with {statistics} statistics: " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()) + "\n"
        for statistics, row in metrics.items()
    )


def as_json(found: ActivationStatistics) -> dict[str, Any]:
    """Plain numbers for JSON, by layer."""
    return {
        "num_images": found.num_images,
        "activations": {name: row.as_json() for name, row in found.activations.items()},
        "gradients": {name: row.as_json() for name, row in found.gradients.items()},
        "never_called": list(found.never_called),
    }


def _detect(detector: Detector, batch: Batch) -> dict[int, Any]:
    detections = detector.post_process(detector.model(batch.images), batch.sizes)
    return {
        index: {key: value.cpu() for key, value in found.items()}
        for index, found in zip(batch.indices.tolist(), detections, strict=True)
    }
