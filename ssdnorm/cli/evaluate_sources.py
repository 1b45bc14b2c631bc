"""Where an evaluation's ground truth and detections come from: a run, weights, or files."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdnorm.cli import check_no_extra_arguments
from ssdnorm.cli.checks import check_evaluation_keys
from ssdnorm.coco_format import load_detections, load_ground_truth
from ssdnorm.config import SOURCE_KEYS, PostProcessConfig
from ssdnorm.config_file import find_config, merge_config, parse_overrides, read_config, read_yaml
from ssdnorm.metrics.voc_files import read_voc_detections
from ssdnorm.tables import DetectionTable, GroundTruth

if TYPE_CHECKING:
    from ssdnorm.data.dataset import DetectionDataset

ImageLoader = Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class Sources:
    """What is evaluated, and what it was made from.

    Attributes:
        load_image: pixels by image id; None where the images are not at hand.
        is_new: whether the detections are not in a COCO result file yet.
        inputs: for ``result.json``.
    """

    truth: GroundTruth
    found: DetectionTable
    load_image: ImageLoader | None
    is_new: bool
    inputs: dict[str, Any]


def sources_from_files(arguments: argparse.Namespace, rest: Sequence[str]) -> Sources:
    """``--detections`` on ``--annotations`` or on the data set of ``--config``."""
    if not arguments.detections.exists():
        raise FileNotFoundError(f"--detections: {arguments.detections}: no such file or folder")
    load_image: ImageLoader | None = None
    if arguments.config is not None:
        from ssdnorm.build import build_dataset  # loads the whole library, which files alone do not need

        config = read_config(arguments.config, rest)
        names = config.data.class_names or build_dataset(config, "train").class_names
        data_set = build_dataset(config, "test", class_names=names)
        truth, load_image = data_set.ground_truth, _loader_from_dataset(data_set)
    elif arguments.split is not None:
        from ssdnorm.data.voc import VocDataset

        check_no_extra_arguments(rest)
        data_set = VocDataset([str(path) for path in arguments.annotations], arguments.split, check_images=False)
        truth, load_image = data_set.ground_truth, _loader_from_dataset(data_set)
    else:
        check_no_extra_arguments(rest)
        truth = load_ground_truth(arguments.annotations[0])
        if arguments.images is not None:
            load_image = _loader_from_folder(truth, arguments.images)
    found = read_detections(arguments.detections, truth)
    return Sources(truth, found, load_image, arguments.detections.is_dir(), _inputs(arguments))


def sources_from_weights(arguments: argparse.Namespace, rest: Sequence[str]) -> Sources:
    """Run a model on the test set of its config, or on ``--annotations``."""
    from ssdnorm.build import build_dataset
    from ssdnorm.data.batches import make_eval_loader
    from ssdnorm.data.transforms import EvalTransform
    from ssdnorm.detector import load_detector
    from ssdnorm.engine.evaluation import predict_dataset
    from ssdnorm.models.post_process import PostProcess

    checkpoint = arguments.checkpoint or arguments.run / "checkpoints" / "model.safetensors"
    config_path = arguments.config if arguments.run is None else arguments.run / "config.yaml"
    if arguments.run is not None and not arguments.run.is_dir():
        raise FileNotFoundError(f"--run: {arguments.run}: no such run folder")
    check_evaluation_keys(rest, test_given=arguments.annotations is not None)
    detector = load_detector(checkpoint, custom_norms=arguments.allow_norm)
    own = detector.post_process
    changes = parse_overrides(rest)
    if arguments.annotations is not None:
        changes |= {"data.test": _data_keys(arguments)}
    if config_path is None:  # the data given, the checkpoint's own post-processing, what the command line changes
        where, values = "command line", {name: getattr(own, name) for name in vars(PostProcessConfig())}
        content = {"data.train": _data_keys(arguments), "post_process": values}
    else:
        where, content = str(config_path), read_yaml(find_config(config_path)) or {}
    config = merge_config((where, content), ("command line", changes))
    post_process = PostProcess(own.default_boxes, coder=own.coder, **vars(config.post_process))
    test_set = build_dataset(config, "test", class_names=detector.class_names)
    if tuple(test_set.class_names) != tuple(detector.class_names):
        raise ValueError(
            f"{where}: data.class_names: the checkpoint's classes are {', '.join(detector.class_names)}; "
            f"those of the data are {', '.join(test_set.class_names)}"
        )
    make_loader = partial(
        make_eval_loader,
        test_set,
        EvalTransform(detector.model.image_size, antialias=detector.antialias),
        batch_size=8 if config.training.batch_size == "auto" else config.training.batch_size,
        num_workers=config.runtime.num_workers,
    )
    found = predict_dataset(
        detector.model,
        post_process,
        make_loader,
        precision=config.training.precision,
        accelerator=config.runtime.accelerator,
        devices=config.runtime.devices,
        num_nodes=config.runtime.num_nodes,
    )
    inputs = {**_inputs(arguments), "checkpoint": _described(checkpoint)}
    if config_path is not None:
        inputs["config"] = _described(config_path)
    if rest:
        inputs["overrides"] = list(rest)
    load_image = _loader_from_dataset(test_set)
    return Sources(test_set.ground_truth, DetectionTable.from_images(found), load_image, True, inputs)


def read_detections(path: Path, truth: GroundTruth) -> DetectionTable:
    """A COCO result file, or a folder of the VOC devkit's ``comp4_det_test_<class>.txt``.

    Raises:
        FileNotFoundError: nothing is there. ValueError: damaged, or of other images or categories.
    """
    if path.is_dir():
        return read_voc_detections(path, truth)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such detections file or folder")
    return load_detections(path, truth)


def _loader_from_dataset(data_set: DetectionDataset) -> ImageLoader:
    places = {data_set.image_id(place): place for place in range(len(data_set))}
    return lambda image_id: data_set.load_image(places[image_id])


def _loader_from_folder(truth: GroundTruth, folder: Path) -> ImageLoader:
    from ssdnorm.data.images import EncodedImage

    if not folder.is_dir():
        raise FileNotFoundError(f"--images: {folder}: no such folder")
    places = {image_id: place for place, image_id in enumerate(truth.image_ids.tolist())}

    def load(image_id: Any) -> np.ndarray:
        name = truth.names[places[image_id]]
        if not name:
            raise ValueError(f"--images: image {image_id!r} has no file_name in the annotations")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"--images: {folder / name}: no such image")
        return EncodedImage.read(folder / name).decode()

    return load


def _data_keys(arguments: argparse.Namespace) -> dict[str, Any]:
    """``--annotations`` and its companions as a config's ``data.test``; nulls in place of another format's keys."""
    keys: dict[str, Any] = dict.fromkeys(SOURCE_KEYS)
    if arguments.split is not None:
        return keys | {"format": "voc", "root": list(map(str, arguments.annotations)), "split": arguments.split}
    return keys | {"format": "coco", "annotations": str(arguments.annotations[0]), "images": str(arguments.images)}


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
