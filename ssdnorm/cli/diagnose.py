"""Measure a network: lengths, dead channels, scales and gradients by layer, and batch norm.

examples:
  ssdnorm diagnose --run runs/x --output out
  ssdnorm diagnose --checkpoint model.safetensors --images photos/ --output out
  ssdnorm diagnose --weights vgg16.npz --images photos/ --against runs/x --output out
  ssdnorm diagnose --run runs/x --batch-norm --output out

Prints a table, and writes diagnostics.json and figures. Gradients are measured on a run's or a config's data, which has
objects. With --config every key of it can be set, e.g. --data.test.split val.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdnorm.cli.checks import add_allow_norm, existing_path, given_path, one_or_more, output_folder

if TYPE_CHECKING:
    from torch import Tensor

    from ssdnorm.data.dataset import DetectionDataset
    from ssdnorm.detector import Detector
    from ssdnorm.diagnose.activations import ActivationStatistics
    from ssdnorm.diagnose.batch_norm_advice import BatchNormReport
    from ssdnorm.structures import Batch, Detections

log = logging.getLogger("ssdnorm.diagnose")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("what to measure (one of)")
    one = source.add_mutually_exclusive_group()
    one.add_argument("--run", type=existing_path, help="a run folder: its weights, on its test set")
    one.add_argument("--checkpoint", type=Path, help="model.safetensors of a run, or another SSD's file")
    one.add_argument("--weights", type=existing_path, help="VGG16's classification weights in a new SSD (of --config)")
    source.add_argument("--config", type=given_path, help="alone: a new model; with another: the data to measure on")
    parser.add_argument(
        "--against", type=Path, metavar="PATH", help="a second arm: a run, a checkpoint, a config, or VGG16's .npz"
    )
    add_allow_norm(parser)
    parser.add_argument("--images", nargs="+", help="pictures, folders, patterns; default: the config's test set")
    parser.add_argument("--num-images", type=one_or_more, default=32, metavar="N", help="largest number of images (32)")
    parser.add_argument("--batch-size", type=one_or_more, default=8, metavar="B", help="images at a time (8)")
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="conv4_3, 'tap fc7', …, or modules by full name")
    parser.add_argument("--batch-norm", action="store_true", help="running, batch and population statistics, advice")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 …; default: cuda if available")
    parser.add_argument(
        "--output", required=True, type=output_folder, help="folder for diagnostics.json and the figures"
    )


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Measure each arm, print tables, write numbers and figures."""
    if arguments.images is None and arguments.run is None and arguments.config is None:
        raise ValueError("--images: give pictures, or --config for the data's own")

    # imported here, so that --help does not wait for them
    from ssdnorm.cli.checks import parse_device
    from ssdnorm.cli.diagnose_sources import read_arms, read_pictures
    from ssdnorm.data.batches import make_eval_loader
    from ssdnorm.data.transforms import EvalTransform
    from ssdnorm.diagnose.activations import activation_table
    from ssdnorm.diagnose.batch_norm_advice import batch_norm_table
    from ssdnorm.diagnose.figures import plot_batch_norm, plot_depth, plot_lengths, plot_scales
    from ssdnorm.diagnose.layers import find_ssd_parts, scale_table
    from ssdnorm.files import write_json
    from ssdnorm.layers.population_statistics import batch_norms
    from ssdnorm.plots.style import save
    from ssdnorm.provenance import provenance

    arms, config = read_arms(arguments, rest)
    with_batch_norm = {name for name, detector in arms.items() if batch_norms(detector.model)}
    if arguments.batch_norm and not with_batch_norm:
        raise ValueError("--batch-norm: the model has no batch norm with running statistics")
    dataset, unreadable = read_pictures(arguments, config, arms)
    for message in unreadable:
        print(f"not read: {message}", file=sys.stderr)
    device = parse_device(arguments.device)
    names = [dataset.image_name(i) for i in range(len(dataset))]
    record: dict[str, Any] = {"images": names, "unreadable": unreadable, "arms": {}}
    found: dict[str, ActivationStatistics] = {}
    scales: dict[str, dict[str, Tensor]] = {}
    initial: dict[str, float] = {}
    figures = {}
    for i, (name, detector) in enumerate(arms.items()):
        detector.to(device)
        transform = EvalTransform(detector.model.image_size, antialias=detector.antialias)
        loader = make_eval_loader(dataset, transform, batch_size=arguments.batch_size)
        batches = [batch.to(device) for batch in loader]
        found[name] = _measure_activations(detector, batches, arguments.layers)
        print(f"{name}: {found[name].num_images} images\n{activation_table(found[name])}\n")
        parts = find_ssd_parts(detector.model)
        assert parts is not None, "arms are SSDs"
        scales[name] = parts.tap_scales()  # they start from 1 in all norms but L2Norm
        before_training = {tap: float(getattr(parts.tap_norms[tap], "scale", 1.0)) for tap in scales[name]}
        initial |= before_training
        if scales[name]:
            print(f"{scale_table(scales[name], before_training)}\n")
        numbers = {**found[name].as_json(), "scales": {tap: w.tolist() for tap, w in scales[name].items()}}
        if arguments.batch_norm and name not in with_batch_norm:
            print(f"{name}: no batch norm with running statistics\n")
        elif arguments.batch_norm:
            report, metrics = _measure_batch_norm(detector, batches, dataset)
            print(batch_norm_table(report))
            for statistics, row in metrics.items():
                print(f"with {statistics} statistics: " + ", ".join(f"{key} {value:.4f}" for key, value in row.items()))
            numbers["batch_norm"] = {**report.as_json(), "metrics": metrics}
            figures["batch_norm_against" if i else "batch_norm"] = plot_batch_norm(report)
        record["arms"][name] = numbers
    figures["lengths"] = plot_lengths(found, arguments.layers)
    figures["depth"] = plot_depth(found)
    if any(scales.values()):
        figures["scales"] = plot_scales(scales, initial)
    write_json(arguments.output / "diagnostics.json", {**record, **provenance()})
    for name, figure in figures.items():
        save(figure, arguments.output / f"{name}.png", dpi=100)
        print(arguments.output / f"{name}.png")


def _measure_activations(
    detector: Detector, batches: Sequence[Batch], layers: Sequence[str] | None
) -> ActivationStatistics:
    """Compute activation statistics in eval mode, and gradients of the multibox loss if there are objects."""
    from tqdm import tqdm

    from ssdnorm.diagnose.activations import activation_statistics

    has_objects = any(bool((batch.labels > 0).any()) for batch in batches)

    def loss(output: Any, batch: Batch) -> Tensor:
        assert detector.loss is not None, "arms have one"
        total: Tensor = sum(detector.loss(output, batch.boxes, batch.labels).values())
        return total

    return activation_statistics(
        detector.model,
        tqdm(batches, desc="activations", unit="batch", disable=None),
        layers=layers,
        forward=lambda model, batch: model(batch.images),
        loss=loss if has_objects else None,
    )


def _measure_batch_norm(
    detector: Detector, batches: Sequence[Batch], dataset: DetectionDataset
) -> tuple[BatchNormReport, dict[str, dict[str, float]]]:
    """Report on the batch norms; with objects, also COCO's AP and AP50 under each of the three statistics."""
    from ssdnorm.diagnose.batch_norm import batch_norm_uses
    from ssdnorm.diagnose.batch_norm_advice import batch_norm_report
    from ssdnorm.engine.evaluation import by_place, evaluate_detections

    batches = [batch for batch in batches if len(batch) > 1]  # one image has no variance on a 1×1 map
    report, population = batch_norm_report(detector.model, [batch.images for batch in batches])
    metrics: dict[str, dict[str, float]] = {}
    if not dataset.ground_truth.num_objects:
        return report, metrics
    if sum(len(batch) for batch in batches) < len(dataset):
        log.warning(
            "--batch-norm: no AP: the last batch is one image, which has no batch statistics; change --batch-size"
        )
        return report, metrics
    for statistics in ("batch", "running", "population"):
        found: dict[int, Detections] = {}
        with batch_norm_uses(detector.model, statistics, population):
            for batch in batches:
                detections = detector.post_process(detector.model(batch.images), batch.sizes)
                found |= by_place(detections, batch.indices.tolist())
        result = evaluate_detections(dataset.ground_truth, found)
        metrics[statistics] = {name: result.metrics[name] for name in ("AP", "AP50")}
    return report, metrics
