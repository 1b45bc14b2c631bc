"""Where an evaluation's ground truth and detections come from: a run, weights, or files."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdnorm.cli import check_no_extra_arguments
from ssdnorm.coco_format import load_detections, load_ground_truth
from ssdnorm.config import SOURCE_KEYS, PostProcessConfig
from ssdnorm.config_file import read_config, read_evaluation_config
from ssdnorm.metrics.voc_files import read_voc_detections
from ssdnorm.tables import DetectionTable, GroundTruth

if TYPE_CHECKING:
    from ssdnorm.data.dataset import DetectionDataset


@dataclass(frozen=True)
class Sources:
    """What is evaluated, and what it was made from.

    Attributes:
        data_set: of the ground truth; None where the images are not at hand.
        is_new: whether the detections are not in a COCO result file yet.
        inputs: for ``result.json``.
    """

    truth: GroundTruth
    found: DetectionTable
    data_set: DetectionDataset | None
    is_new: bool
    inputs: dict[str, Any]


def sources_from_files(arguments: argparse.Namespace, rest: Sequence[str]) -> Sources:
    """``--detections`` on ``--annotations`` or on the data set of ``--config``."""
    data_set: DetectionDataset | None = None
    if arguments.config is not None:
        from ssdnorm.build import build_dataset  # loads the whole library, which files alone do not need

        config = read_config(arguments.config, rest)
        names = config.data.class_names or build_dataset(config, "train").class_names
        data_set = build_dataset(config, "test", class_names=names)
    else:
        check_no_extra_arguments(rest)
    if arguments.split is not None:
        from ssdnorm.data.voc import VocDataset

        data_set = VocDataset([str(path) for path in arguments.annotations], arguments.split, check_images=False)
    truth = load_ground_truth(arguments.annotations[0]) if data_set is None else data_set.ground_truth
    if arguments.images is not None:
        from ssdnorm.data.dataset import DetectionDataset

        names = truth.names.tolist()
        if not all(names):
            raise ValueError(f"--images: {names.count('')} images have no file_name in the annotations")
        data_set = DetectionDataset(truth, [str(arguments.images / name) for name in names])
    found = read_detections(arguments.detections, truth)
    return Sources(truth, found, data_set, arguments.detections.is_dir(), _inputs(arguments))


def sources_from_weights(arguments: argparse.Namespace, rest: Sequence[str]) -> Sources:
    """Run a model on the test set of its config, or on ``--annotations``."""
    from ssdnorm.build import build_dataset
    from ssdnorm.data.batches import make_eval_loader
    from ssdnorm.data.transforms import EvalTransform
    from ssdnorm.detector import load_detector
    from ssdnorm.engine.evaluation import predict_dataset
    from ssdnorm.models.post_process import PostProcess

    detector = load_detector(arguments.checkpoint, custom_norms=arguments.allow_norm)
    own = detector.post_process
    given = None if arguments.annotations is None else _data_keys(arguments)
    values = {name: getattr(own, name) for name in PostProcessConfig.model_fields}
    base = arguments.config or {"data.train": given, "post_process": values}
    config = read_evaluation_config(base, rest, test=given)
    test_set = build_dataset(config, "test", class_names=detector.class_names)
    if test_set.class_names != detector.class_names:
        raise ValueError(
            f"{arguments.config or 'command line'}: data.class_names: the checkpoint's classes are "
            f"{', '.join(detector.class_names)}; those of the data are {', '.join(test_set.class_names)}"
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
        PostProcess(own.default_boxes, coder=own.coder, **vars(config.post_process)),
        make_loader,
        precision=config.training.precision,
        accelerator=config.runtime.accelerator,
        devices=config.runtime.devices,
        num_nodes=config.runtime.num_nodes,
    )
    inputs = _inputs(arguments) | ({"overrides": list(rest)} if rest else {})
    return Sources(test_set.ground_truth, DetectionTable.from_images(found), test_set, True, inputs)


def read_detections(path: Path, truth: GroundTruth) -> DetectionTable:
    """A COCO result file, or a folder of the VOC devkit's ``comp4_det_test_<class>.txt``."""
    return read_voc_detections(path, truth) if path.is_dir() else load_detections(path, truth)


def _data_keys(arguments: argparse.Namespace) -> dict[str, Any]:
    """``--annotations`` and its companions as a config's ``data.test``; nulls in place of another format's keys."""
    keys: dict[str, Any] = dict.fromkeys(SOURCE_KEYS)
    if arguments.split is not None:
        return keys | {"format": "voc", "root": list(map(str, arguments.annotations)), "split": arguments.split}
    return keys | {"format": "coco", "annotations": str(arguments.annotations[0]), "images": str(arguments.images)}


def _inputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Files and folders by option, as far as they were given."""
    names = ("run", "checkpoint", "config", "detections", "images", "against", "annotations")
    given = {name: path for name in names if (path := getattr(arguments, name)) is not None}
    split = {} if arguments.split is None else {"split": arguments.split}
    return {name: _described(path) for name, path in given.items()} | split


def _described(path: Path | list[Path]) -> Any:
    """Path, and for a file the digest of its content."""
    if isinstance(path, list):
        return [_described(each) for each in path]
    if not path.is_file():
        return {"path": str(path)}
    with path.open("rb") as file:
        return {"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
