"""Evaluate detections with COCO's and VOC's metrics: from a run, from weights, or from a file of detections.

examples:
  ssdnorm evaluate --run runs/x
  ssdnorm evaluate --checkpoint model.safetensors --config mine.yaml --output out
  ssdnorm evaluate --checkpoint model.safetensors --annotations VOC2007 --split test --output out
  ssdnorm evaluate --detections dets.json --annotations instances.json
  ssdnorm evaluate --detections results/ --annotations VOC2007 --split test --metric voc07

A data set in either format can be evaluated with either metric. With --run, --checkpoint and --detections with
--config, every key of the config can be set, e.g. --data.test.split val or --runtime.devices 1.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdnorm.cli.checks import (
    add_allow_norm,
    add_device_key,
    existing_path,
    given_path,
    one_or_more,
    output_folder,
    weights_and_config,
)

if TYPE_CHECKING:
    from ssdnorm.engine.evaluation import EvaluationOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_argument_group("what is evaluated (one of)")
    one = source.add_mutually_exclusive_group(required=True)
    one.add_argument("--run", type=existing_path, help="a run folder: its weights on its test set")
    one.add_argument("--checkpoint", type=Path, help="weights; with --config or --annotations for the data")
    one.add_argument(
        "--detections",
        type=existing_path,
        metavar="PATH",
        help="a COCO result file (.json), or a folder with the VOC devkit's comp4_det_<list>_<class>.txt",
    )
    add_allow_norm(source)
    truth = parser.add_argument_group("ground truth")
    truth.add_argument("--config", type=given_path, help="whose data.test is evaluated on")
    truth.add_argument(
        "--annotations",
        type=existing_path,
        nargs="+",
        metavar="PATH",
        help="instead: a COCO instances file (.json), or a VOC folder (Annotations, JPEGImages, ImageSets), or several",
    )
    truth.add_argument("--split", nargs="+", help="list of a VOC folder, e.g. test; one for all folders or one each")
    truth.add_argument(
        "--images", type=existing_path, metavar="FOLDER", help="with the images of a COCO instances file"
    )
    metric = parser.add_argument_group("metrics")
    metric.add_argument(
        "--metric",
        nargs="+",
        metavar="NAME",
        help="coco, voc07 (11-point mAP), voc (all-point mAP); several allowed; default: all",
    )
    metric.add_argument(
        "--backend",
        help="of COCO's metric: ssdnorm, pycocotools, hotcoco, faster-coco-eval, ultrafast-pycocotools; "
        "default: ssdnorm",
    )
    metric.add_argument(
        "--iou-thresholds", type=float, nargs="+", metavar="IOU", help="of COCO's metric; default: .50 .55 … .95"
    )
    metric.add_argument(
        "--max-detections",
        type=int,
        nargs="+",
        metavar="NUM",
        help="COCO's limits per image and class, ascending; AP uses the last; default: 1 10 100",
    )
    metric.add_argument("--voc-iou", type=float, metavar="IOU", help="of VOC's metrics; default: 0.5")
    more = parser.add_argument_group("how sure, and where it fails (COCO's metric, backend ssdnorm)")
    more.add_argument(
        "--bootstrap", type=one_or_more, metavar="N", help="95 %% intervals of AP and AP50 from N resamples, e.g. 1000"
    )
    more.add_argument(
        "--against",
        type=existing_path,
        metavar="PATH",
        help="other detections of the same images: the difference with its interval (1000 resamples, or --bootstrap)",
    )
    more.add_argument(
        "--store-thresholds",
        action="store_true",
        help="write the score of the best F1 of each class into the checkpoint, for predict --threshold best",
    )
    more.add_argument(
        "--plots",
        action="store_true",
        help="OUTPUT/plots: precision-recall, classes, errors, confusions, calibration, F1; numbers in result.json",
    )
    more.add_argument(
        "--show-worst",
        type=one_or_more,
        metavar="N",
        help="OUTPUT/worst: the N images with the most errors, ground truth beside detections; needs the images",
    )
    more.add_argument(
        "--show-above", type=float, metavar="SCORE", help="lowest score that --show-worst counts; default: 0.3"
    )
    output = parser.add_argument_group("what is written")
    output.add_argument(
        "--output",
        type=output_folder,
        metavar="FOLDER",
        help="for result.json and detections.json (the latter not if it was the input); default: RUN/evaluation; "
        "with --detections nothing is written without it",
    )
    output.add_argument(
        "--voc-dets", type=output_folder, metavar="FOLDER", help="write the devkit's comp4_det_test_<class>.txt there"
    )
    add_device_key(parser)


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Check all options at once, evaluate, report."""
    started = time.perf_counter()
    arguments.checkpoint, arguments.config = weights_and_config(arguments)
    if arguments.output is None and arguments.run is not None:
        arguments.output = arguments.run / "evaluation"
    _check_sources(arguments)
    _check_annotations(arguments)

    # imported here, so that --help and mistakes in the options do not wait for them
    from ssdnorm.cli.evaluate_report import write_evaluation
    from ssdnorm.cli.evaluate_sources import sources_from_files, sources_from_weights
    from ssdnorm.engine.evaluation import evaluate_tables, is_main_process

    options = _evaluation_options(arguments)
    _check_report(arguments, options)
    read = sources_from_weights if arguments.detections is None else sources_from_files
    sources = read(arguments, rest)
    if is_main_process():
        result = evaluate_tables(sources.truth, sources.found, options)
        write_evaluation(result, sources, options, arguments, started=started)


def _check_sources(arguments: argparse.Namespace) -> None:
    """Refuse sources and folders that do not go together."""
    if arguments.config is None and arguments.annotations is None:
        given = "detections" if arguments.checkpoint is None else "checkpoint"
        raise ValueError(f"--{given}: needs ground truth: --annotations (with --split for VOC), or --config")
    if arguments.checkpoint is not None and arguments.output is None:
        raise ValueError("--checkpoint: needs --output, a folder for result.json and detections.json")
    if arguments.detections is not None:
        if arguments.config is not None and arguments.annotations is not None:
            raise ValueError("--config: with --detections, give --annotations or --config, not both")
        if arguments.allow_norm:
            raise ValueError("--allow-norm: detections name no classes; it belongs to --run and --checkpoint")
        if arguments.store_thresholds:
            raise ValueError("--store-thresholds: writes into a checkpoint; give --run or --checkpoint")
    if arguments.output is not None and (arguments.output / "config.yaml").exists():
        raise ValueError(
            f"--output: {arguments.output} is a run folder, whose result.json would be lost; take another one"
        )


def _check_annotations(arguments: argparse.Namespace) -> None:
    paths = arguments.annotations
    if paths is None:
        for option in ("split", "images"):
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option}: belongs to --annotations, which is not given")
        return
    folders = [path.is_dir() for path in paths]
    if all(folders):
        if arguments.split is None:
            lists = sorted(path.stem for path in (paths[0] / "ImageSets" / "Main").glob("*.txt"))
            have = f"; it has: {', '.join(lists[:10])}" if lists else ""
            raise ValueError(f"--annotations: {paths[0]} is a VOC folder, which needs --split{have}")
        if arguments.images is not None:
            raise ValueError("--images: a VOC folder has its own images; only a COCO instances file needs them")
        return
    if len(paths) > 1:
        raise ValueError(f"--annotations: one COCO instances file, or VOC folders; got {', '.join(map(str, paths))}")
    if arguments.split is not None:
        raise ValueError(f"--split: belongs to VOC folders; {paths[0]} is a file")
    if arguments.detections is None and arguments.images is None:
        raise ValueError(f"--annotations: {paths[0]} needs --images, the folder of its images")
    if arguments.detections is not None and arguments.images is not None and arguments.show_worst is None:
        raise ValueError("--images: with --detections they are for --show-worst, which is not given")


def _evaluation_options(arguments: argparse.Namespace) -> EvaluationOptions:
    """Which numbers are asked for; refuses options of a metric that is not among them."""
    from ssdnorm.engine.evaluation import METRICS, EvaluationOptions
    from ssdnorm.metrics.backends import is_installed

    metrics = tuple(dict.fromkeys(arguments.metric or METRICS))
    belongs = {"backend": "coco", "iou_thresholds": "coco", "max_detections": "coco", "voc_iou": "voc"}
    values: dict[str, Any] = {}
    for name, metric in belongs.items():
        value = getattr(arguments, name)
        if value is None:
            continue
        if not any(asked.startswith(metric) for asked in metrics):
            raise ValueError(f"{_option(name)}: belongs to --metric {metric}, which is not asked for")
        values[name] = tuple(value) if isinstance(value, list) else value
    try:
        options = EvaluationOptions(metrics, **values)
    except ValueError as error:
        name, colon, message = str(error).partition(":")
        raise ValueError(f"{_option(name)}{colon}{message}") from error
    if not is_installed(options.backend):
        raise ValueError(f"--backend: {options.backend} is not installed: pip install {options.backend}")
    return options


def _check_report(arguments: argparse.Namespace, options: EvaluationOptions) -> None:
    """Refuse what is asked for beyond the numbers without what it stands on."""
    for name in ("bootstrap", "against", "plots", "show_worst", "store_thresholds"):
        if getattr(arguments, name) in (None, False):
            continue
        if "coco" not in options.metrics:
            raise ValueError(f"{_option(name)}: stands on COCO's matching; add coco to --metric")
        if options.backend != "ssdnorm":
            raise ValueError(f"{_option(name)}: needs the matches of --backend ssdnorm; got {options.backend}")
        if name in ("plots", "show_worst") and arguments.output is None:
            raise ValueError(f"{_option(name)}: needs --output, the folder that the pictures go to")
    if arguments.show_above is not None and arguments.show_worst is None:
        raise ValueError("--show-above: belongs to --show-worst, which is not given")
    if arguments.show_above is not None and not 0 <= arguments.show_above <= 1:
        raise ValueError(f"--show-above: got {arguments.show_above}, allowed: a score from 0 to 1")
    is_file = arguments.annotations is not None and arguments.annotations[0].is_file()
    if arguments.show_worst is not None and is_file and arguments.images is None:
        raise ValueError("--show-worst: needs --images, the folder with the images of the annotations")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
