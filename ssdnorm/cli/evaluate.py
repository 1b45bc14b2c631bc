"""Evaluate a run with COCO's and VOC's metrics: python scripts/evaluate.py --run runs/quickstart"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ssdnorm.build import build_dataset, build_training, load_detector, loop_settings
from ssdnorm.config import read_config
from ssdnorm.engine.run import evaluate, provenance, write_json

HELP = "evaluate a run or a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="a run folder: its config, its weights, its test set")
    source.add_argument("--checkpoint", type=Path, help="weights, with --config for the data")
    parser.add_argument("--config", type=Path, help="whose data.test is evaluated on; with --checkpoint")
    parser.add_argument("--output", type=Path, help="folder for result.json and detections.json; default: RUN/evaluation")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Load, evaluate, write."""
    if arguments.run is not None and arguments.config is not None:
        raise ValueError("--config: a run has its own config; give --checkpoint with --config instead")
    if arguments.checkpoint is not None and (arguments.config is None or arguments.output is None):
        raise ValueError("--checkpoint: needs --config, whose data.test is evaluated on, and --output")
    folder = arguments.run
    config_path = arguments.config if folder is None else folder / "config.yaml"
    checkpoint = arguments.checkpoint if folder is None else folder / "checkpoints" / "model.safetensors"
    output = arguments.output or folder / "evaluation"
    config = read_config(config_path, rest)
    detector = load_detector(checkpoint)
    test_set = build_dataset(config, "test", class_names=detector.class_names)
    if tuple(test_set.class_names) != detector.class_names:
        raise ValueError(
            f"{config_path}: data.class_names: the checkpoint's classes are {', '.join(detector.class_names)}; "
            f"those of the data are {', '.join(test_set.class_names)}"
        )
    module = build_training(config, detector.model, train_set=None, test_set=test_set)
    result = evaluate(module, loop_settings(config, len(test_set)), output)
    write_json(output / "detections.json", result.detections)
    write_json(
        output / "result.json",
        {
            "metrics": result.metrics,
            "per_class": result.per_class,
            "checkpoint": str(checkpoint),
            "images": len(test_set),
            **provenance(),
        },
    )
    print(result.table)
    print(f"\nwritten: {output / 'result.json'}, {output / 'detections.json'}")
