"""Load the arms (trained, pretrained or newly drawn) and the pictures of a diagnosis."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ssdnorm.build import build_dataset, build_loss, build_model, build_post_process, load_detector
from ssdnorm.cli.checks import check_evaluation_keys, check_no_extra_arguments
from ssdnorm.cli.frames import find_sources, is_video
from ssdnorm.config import Config
from ssdnorm.config_file import read_config
from ssdnorm.data.batches import Sample, collate
from ssdnorm.data.dataset import DetectionDataset, subset
from ssdnorm.data.images import EncodedImage
from ssdnorm.data.views import whole_image
from ssdnorm.detector import Detector
from ssdnorm.resize import resize_image
from ssdnorm.structures import Batch

_BACKBONE_SUFFIX = ".npz"  # the Oxford release of VGG16; an SSD is never in one


@dataclass(frozen=True)
class Arm:
    """A detector and its name in tables and figures."""

    name: str
    detector: Detector


@dataclass(frozen=True)
class Pictures:
    """Pictures at their original sizes; with objects where they come from a data set.

    Attributes:
        names: of the files.
        pixels: ``(H, W, 3)`` uint8 RGB each.
        unreadable: messages about files that could not be read.
        dataset: of exactly these pictures, for objects and ids; None for files.
    """

    names: list[str]
    pixels: list[np.ndarray]
    unreadable: list[str]
    dataset: DetectionDataset | None = None

    def batches(self, detector: Detector, batch_size: int) -> list[Batch]:
        """Make batches as the detector was trained on."""
        samples = []
        for i, pixels in enumerate(self.pixels):
            boxes_px, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
            if self.dataset is not None:
                boxes_px, labels = self.dataset.training_boxes(i)
            height, width = pixels.shape[:2]
            boxes, labels = whole_image(height, width).place_boxes(boxes_px, labels)
            size = detector.model.image_size
            image = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), size, size, antialias=detector.antialias)
            samples.append(Sample(image, torch.from_numpy(boxes), torch.from_numpy(labels), (height, width), i))
        return [collate(samples[i : i + batch_size]) for i in range(0, len(samples), batch_size)]


def read_arms(arguments: argparse.Namespace, rest: Sequence[str]) -> tuple[list[Arm], Config | None]:
    """Load the arm that the options name, the one of ``--against``, and the config of the data, if any.

    Raises:
        ValueError: options that exclude each other. FileNotFoundError: no such file.
    """
    given = [name for name in ("run", "checkpoint", "weights") if getattr(arguments, name) is not None]
    if len(given) > 1 or not (given or arguments.config):
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise ValueError(f"give one of --run, --checkpoint, --weights, or --config for a fresh model; got {got}")
    if arguments.run is not None and arguments.config is not None:
        raise ValueError("--config: a run has its own config; give --checkpoint with --config instead")
    config_path = arguments.config if arguments.run is None else arguments.run / "config.yaml"
    if config_path is None:
        check_no_extra_arguments(rest)
    if arguments.run is not None or arguments.checkpoint is not None:
        check_evaluation_keys(rest)
    config = None if config_path is None else read_config(config_path, rest)
    if arguments.run is not None:
        arm = Arm(arguments.run.name, load_detector(_weights_of_run(arguments.run)))
    elif arguments.checkpoint is not None:
        arm = Arm(arguments.checkpoint.stem, load_detector(arguments.checkpoint))
    else:
        name = f"{arguments.config.stem} (drawn)" if arguments.weights is None else arguments.weights.stem
        names: Sequence[str] | None = None if config is None else config.data.class_names
        if names is None and config is not None and arguments.images is None:
            names = build_dataset(config, "train").class_names
        arm = Arm(name, fresh_detector(config, arguments.weights, class_names=names))
    arms = [arm]
    if arguments.against is not None:
        other = _other_arm(arguments.against, arm.detector.class_names)
        arms.append(replace(other, name=f"{other.name} (2)") if other.name == arm.name else other)
    return arms, config


def fresh_detector(
    config: Config | None, weights: Path | None, *, class_names: Sequence[str] | None = None
) -> Detector:
    """Make a detector with newly drawn weights, or those of a backbone file.

    Args:
        config: of the model; None for SSD300 with the paper's norm.
        weights: of the backbone, instead of the config's.
        class_names: of the data; None for VOC's number of classes.
    """
    config = config or Config.model_construct()
    if weights is not None:
        if not weights.is_file():
            raise FileNotFoundError(f"--weights: {weights}: no such file")
        config = config.model_copy(
            update={"model": config.model.model_copy(update={"weights": str(weights), "checkpoint": None})}
        )
    model = build_model(config, 1 + len(class_names) if class_names else 21, class_names=class_names)
    return Detector(
        model, build_loss(config, model), build_post_process(config, model), class_names=class_names, antialias=True
    ).eval()


def find_pictures(arguments: Sequence[str]) -> list[Path]:
    """Find the files that ``--images`` names.

    Raises:
        ValueError: a video or a camera. FileNotFoundError: an argument matches nothing.
    """
    sources = find_sources(arguments)
    if videos := [source for source in sources if is_video(source)]:
        raise ValueError(f"--images: {videos[0]}: pictures only, no videos or cameras")
    return [Path(str(source)) for source in sources]


def read_pictures(
    arguments: argparse.Namespace, files: Sequence[Path], config: Config | None, arms: Sequence[Arm]
) -> Pictures:
    """Read at most ``--num-images`` pictures: the first files, or evenly over the config's test set.

    Raises:
        ValueError: none can be read, or the data has other classes than an arm.
    """
    if files:
        pictures = _read_files(files, arguments.num_images)
    else:
        assert config is not None
        dataset = build_dataset(config, "test", class_names=config.data.class_names or arms[0].detector.class_names)
        for arm in arms:
            if arm.detector.model.num_classes != 1 + len(dataset.class_names):
                raise ValueError(
                    f"{arm.name}: it has {arm.detector.model.num_classes - 1} classes; those of the data are "
                    f"{', '.join(dataset.class_names)}; give --images, which need no classes"
                )
        count = min(arguments.num_images, len(dataset))
        dataset = subset(dataset, [i * len(dataset) // count for i in range(count)])
        names = [dataset.image_name(i) for i in range(count)]
        pictures = Pictures(names, [dataset.load_image(i) for i in range(count)], [], dataset)
    if not pictures.names:
        raise ValueError("no picture could be read" + "".join(f"; {message}" for message in pictures.unreadable[:3]))
    return pictures


def _read_files(paths: Sequence[Path], limit: int) -> Pictures:
    pictures = Pictures([], [], [])
    for path in paths:
        if len(pictures.names) == limit:
            break
        try:
            pixels = EncodedImage.read(path).decode()
        except (OSError, ValueError) as error:
            pictures.unreadable.append(str(error))
            continue
        pictures.names.append(str(path))
        pictures.pixels.append(pixels)
    return pictures


def _other_arm(path: Path, class_names: Sequence[str]) -> Arm:
    if path.is_dir():
        return Arm(path.name, load_detector(_weights_of_run(path)))
    if path.suffix in (".yaml", ".yml"):
        return Arm(f"{path.stem} (drawn)", fresh_detector(read_config(path), None, class_names=class_names))
    if path.suffix == _BACKBONE_SUFFIX:
        return Arm(path.stem, fresh_detector(None, path, class_names=class_names))
    return Arm(path.stem, load_detector(path))


def _weights_of_run(run: Path) -> Path:
    if not run.is_dir():
        raise FileNotFoundError(f"--run: {run}: no such run folder")
    return run / "checkpoints" / "model.safetensors"
