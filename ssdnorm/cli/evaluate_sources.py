"""This file is about where an evaluation's detections and ground truth come from: a run, weights, or files."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssdnorm.build import build_dataset, build_post_process, load_detector
from ssdnorm.cli.checks import check_evaluation_keys, check_no_extra_arguments
from ssdnorm.config import Config, PostProcessConfig
from ssdnorm.config_file import config_from_mapping, parse_overrides, put, read_config
from ssdnorm.data.batches import make_eval_loader
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.images import EncodedImage
from ssdnorm.data.transforms import EvalTransform
from ssdnorm.data.voc import VocDataset
from ssdnorm.detector import Detector
from ssdnorm.engine.evaluation import EvaluationOptions, EvaluationResult, Evaluator, evaluate_arrays
from ssdnorm.metrics.arrays import DetectionArrays, GroundTruthArrays, detection_arrays, ground_truth_arrays
from ssdnorm.metrics.coco_files import load_detections_as_arrays, load_ground_truth
from ssdnorm.metrics.voc import read_voc_detections
from ssdnorm.models.post_process import PostProcess
from ssdnorm.structures import Detections

ImageLoader = Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class GroundTruth:
    """What is there: as a COCO-format dict, as arrays, and the pixels by image id where they can be had."""

    content: Mapping[str, Any]
    arrays: GroundTruthArrays
    load_image: ImageLoader | None


@dataclass(frozen=True)
class Evaluated:
    """An evaluation and what it was made from.

    Attributes:
        new_detections: what goes into ``detections.json``; None where such a file was the input.
        inputs: for ``result.json``.
        main_process: whether this process writes; False in all but one of a distributed evaluation.
    """

    result: EvaluationResult
    truth: GroundTruth
    new_detections: list[dict[str, Any]] | None
    inputs: dict[str, Any]
    main_process: bool = True


def evaluate_files(arguments: argparse.Namespace, rest: Sequence[str], options: EvaluationOptions) -> Evaluated:
    """Evaluate ``--detections`` on ``--annotations`` or on the data set of ``--config``."""
    if not arguments.detections.exists():
        raise FileNotFoundError(f"--detections: {arguments.detections}: no such file or folder")
    if arguments.config is not None:
        config = read_config(arguments.config, rest)
        names = config.data.class_names or build_dataset(config, "train").class_names
        truth = _of_data_set(build_dataset(config, "test", class_names=names))
    else:
        check_no_extra_arguments(rest)
        truth = read_ground_truth(arguments.annotations, arguments.split, arguments.images)
    rows, found = read_detections(arguments.detections, truth)
    new = rows if arguments.detections.is_dir() else None
    return Evaluated(evaluate_arrays(truth.arrays, found, options), truth, new, _inputs(arguments))


def evaluate_weights(arguments: argparse.Namespace, rest: Sequence[str], options: EvaluationOptions) -> Evaluated:
    """Run a model on the test set of its config, or on ``--annotations``, and evaluate what it finds."""
    checkpoint = arguments.checkpoint or arguments.run / "checkpoints" / "model.safetensors"
    config_path = arguments.config if arguments.run is None else arguments.run / "config.yaml"
    if arguments.run is not None and not arguments.run.is_dir():
        raise FileNotFoundError(f"--run: {arguments.run}: no such run folder")
    check_evaluation_keys(rest, test_given=arguments.annotations is not None)
    detector = load_detector(checkpoint)
    if config_path is None:
        config, where = _config_for(_source(arguments), rest), "command line"
    else:
        config, where = read_config(config_path, [*rest, *_as_overrides(arguments)]), str(config_path)
    test_set = build_dataset(config, "test", class_names=detector.class_names)
    if tuple(test_set.class_names) != tuple(detector.class_names):
        raise ValueError(
            f"{where}: data.class_names: the checkpoint's classes are {', '.join(detector.class_names)}; "
            f"those of the data are {', '.join(test_set.class_names)}"
        )
    truth = _of_data_set(test_set)
    ids = [test_set.image_id(place) for place in range(len(test_set))]
    # the config's thresholds may differ from those of the training
    post_process = _post_process(detector, rest) if config_path is None else build_post_process(config, detector.model)
    make_loader = partial(
        make_eval_loader,
        test_set,
        EvalTransform(detector.model.image_size, antialias=detector.antialias),
        batch_size=config.training.batch_size,
        num_workers=config.runtime.num_workers,
    )
    evaluator = Evaluator(truth.content, ids, test_set.category_ids, options)
    found: dict[int, Detections] = {}
    with torch.inference_mode():
        for batch in make_loader(rank=0, world_size=1):
            found |= dict(
                zip(batch.indices.tolist(), post_process(detector.model(batch.images), batch.sizes), strict=True)
            )
    result = evaluator(found)
    inputs = {**_inputs(arguments), "checkpoint": _described(checkpoint)}
    if config_path is not None:
        inputs["config"] = _described(config_path)
    if rest:
        inputs["overrides"] = list(rest)
    return Evaluated(result, truth, result.detections, inputs, main_process=True)


def read_detections(path: Path, truth: GroundTruth) -> tuple[list[dict[str, Any]], DetectionArrays]:
    """A COCO result file, or a folder of the VOC devkit's ``comp4_det_test_<class>.txt``.

    Raises:
        FileNotFoundError: nothing is there. ValueError: damaged, or of other images or categories.
    """
    if path.is_dir():
        rows = read_voc_detections(path, truth.content)
        return rows, detection_arrays(rows, truth.arrays)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such detections file or folder")
    return load_detections_as_arrays(path, truth.arrays)


def read_ground_truth(paths: Sequence[Path], splits: Sequence[str] | None, images: Path | None) -> GroundTruth:
    """A COCO instances file (with a folder of images to draw on, or without), or VOC folders with their splits."""
    if splits is not None:
        return _of_data_set(VocDataset([str(path) for path in paths], splits, check_images=False))
    (path,) = paths
    if not path.is_file():
        raise FileNotFoundError(f"--annotations: {path}: no such file or folder")
    content = load_ground_truth(path)
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"--images: {images}: no such folder")
    load_image = None if images is None else _loader_from_folder(content, images)
    return GroundTruth(content, ground_truth_arrays(content), load_image)


def _of_data_set(data_set: DetectionDataset) -> GroundTruth:
    places = {data_set.image_id(place): place for place in range(len(data_set))}
    content = data_set.ground_truth()
    return GroundTruth(content, ground_truth_arrays(content), lambda image_id: data_set.load_image(places[image_id]))


def _loader_from_folder(content: Mapping[str, Any], folder: Path) -> ImageLoader:
    names = {image["id"]: image.get("file_name") for image in content["images"]}

    def load(image_id: Any) -> np.ndarray:
        if names[image_id] is None:
            raise ValueError(f"--images: image {image_id!r} has no file_name in the annotations")
        path = folder / names[image_id]
        if not path.is_file():
            raise FileNotFoundError(f"--images: {path}: no such image")
        return EncodedImage.read(path).decode()

    return load


def _source(arguments: argparse.Namespace) -> dict[str, Any]:
    """``--annotations`` and its companions as a config's ``data.test``."""
    if arguments.split is not None:
        return {"format": "voc", "root": [str(path) for path in arguments.annotations], "split": arguments.split}
    return {"format": "coco", "annotations": str(arguments.annotations[0]), "images": str(arguments.images)}


def _as_overrides(arguments: argparse.Namespace) -> list[str]:
    if arguments.annotations is None:
        return []
    values = dict.fromkeys(("root", "split", "annotations", "images", "num_images", "seed", "only"))
    values |= _source(arguments)
    return [f"--data.test.{key}={json.dumps(value)}" for key, value in values.items()]


def _config_for(source: Mapping[str, Any], rest: Sequence[str]) -> Config:
    """A config for evaluation alone: the data given, defaults for the rest."""
    content = put({"data": {"train": dict(source), "test": dict(source)}}, parse_overrides(rest))
    return config_from_mapping(content, where="command line")


def _post_process(detector: Detector, rest: Sequence[str]) -> PostProcess:
    """The checkpoint's own, with what the command line changes."""
    own = detector.post_process
    values = {"post_process": {name: getattr(own, name) for name in vars(PostProcessConfig())}}
    return PostProcess(own.default_boxes, coder=own.coder, **put(values, parse_overrides(rest))["post_process"])


def _inputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Files and folders by option, as far as they were given."""
    inputs: dict[str, Any] = {}
    for name in ("run", "checkpoint", "config", "detections", "images", "against"):
        if (path := getattr(arguments, name)) is not None:
            inputs[name] = _described(path)
    if arguments.annotations is not None:
        inputs["annotations"] = [_described(path) for path in arguments.annotations]
    if arguments.split is not None:
        inputs["split"] = list(arguments.split)
    return inputs


def _described(path: Path) -> dict[str, str]:
    """Path, and for a file the digest of its content."""
    if not path.is_file():
        return {"path": str(path)}
    with path.open("rb") as file:
        return {"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
