"""Load the arms (trained, pretrained or newly drawn) and the pictures of a diagnosis."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ssdnorm.build import build_dataset, build_loss, build_model, build_post_process
from ssdnorm.cli import check_no_extra_arguments
from ssdnorm.cli.checks import check_evaluation_keys
from ssdnorm.cli.frames import find_sources, is_video
from ssdnorm.config import Config
from ssdnorm.config_file import read_config
from ssdnorm.data.batches import Sample, collate
from ssdnorm.data.dataset import DetectionDataset, subset
from ssdnorm.data.images import EncodedImage
from ssdnorm.data.transforms import EvalTransform
from ssdnorm.detector import Detector, load_detector
from ssdnorm.models.foreign import find_family
from ssdnorm.models.tensor_files import read_tensors
from ssdnorm.structures import Batch


@dataclass
class Pictures:
    """Pictures at their original sizes; with objects where they come from a data set.

    Attributes:
        names: of the files.
        pixels: ``(H, W, 3)`` uint8 RGB each.
        unreadable: messages about files that could not be read.
        dataset: of exactly these pictures, for objects and ids; None for files.
    """

    names: list[str] = field(default_factory=list)
    pixels: list[np.ndarray] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    dataset: DetectionDataset | None = None

    def batches(self, detector: Detector, batch_size: int) -> list[Batch]:
        """Make batches as the detector was trained on."""
        transform = EvalTransform(detector.model.image_size, antialias=detector.antialias)
        samples = []
        for i, pixels in enumerate(self.pixels):
            boxes_px, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
            if self.dataset is not None:
                boxes_px, labels = self.dataset.training_boxes(i)
            samples.append(Sample(*transform(pixels, boxes_px, labels), pixels.shape[:2], i))
        return [collate(samples[i : i + batch_size]) for i in range(0, len(samples), batch_size)]


def read_arms(arguments: argparse.Namespace, rest: Sequence[str]) -> tuple[dict[str, Detector], Config | None]:
    """Load the detector that the options name and the one of ``--against``, and the config of the data, if any.

    Raises:
        ValueError: options that exclude each other. FileNotFoundError: no such file.
    """
    run, checkpoint, weights = arguments.run, arguments.checkpoint, arguments.weights
    given = [name for name in ("run", "checkpoint", "weights") if getattr(arguments, name) is not None]
    if len(given) > 1 or not (given or arguments.config):
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise ValueError(f"give one of --run, --checkpoint, --weights, or --config for a fresh model; got {got}")
    if run is not None and arguments.config is not None:
        raise ValueError("--config: a run has its own config; give --checkpoint with --config instead")
    config_path = arguments.config if run is None else run / "config.yaml"
    if config_path is None:
        check_no_extra_arguments(rest)
    if run is not None or checkpoint is not None:
        check_evaluation_keys(rest)
    config = None if config_path is None else read_config(config_path, rest)
    if run is not None or checkpoint is not None:
        name, detector = _load_arm(run or checkpoint, arguments.allow_norm, class_names=None)
    else:
        name = f"{arguments.config.stem} (drawn)" if weights is None else weights.stem
        names: Sequence[str] | None = None if config is None else config.data.class_names
        if names is None and config is not None and arguments.images is None:
            names = build_dataset(config, "train").class_names
        detector = _new_detector(config, weights, class_names=names)
    arms = {name: detector}
    if arguments.against is not None:
        other, against = _load_arm(arguments.against, arguments.allow_norm, class_names=detector.class_names)
        arms[f"{other} (2)" if other in arms else other] = against
    return arms, config


def _load_arm(path: Path, custom_norms: Sequence[str], *, class_names: Sequence[str] | None) -> tuple[str, Detector]:
    """A name and a detector from a run folder, a config, a backbone's weights or a checkpoint."""
    if path.is_dir():
        return path.name, load_detector(path / "checkpoints" / "model.safetensors", custom_norms=custom_norms)
    if path.suffix in (".yaml", ".yml"):
        return f"{path.stem} (drawn)", _new_detector(read_config(path), None, class_names=class_names)
    if path.suffix == ".npz" and find_family(read_tensors(path)) is None:  # such as the Oxford release of VGG16
        return path.stem, _new_detector(None, path, class_names=class_names)
    return path.stem, load_detector(path, custom_norms=custom_norms)


def _new_detector(config: Config | None, weights: Path | None, *, class_names: Sequence[str] | None) -> Detector:
    """A detector with newly drawn weights, or a backbone's.

    Args:
        config: of the model; None for SSD300 with the paper's norm.
        weights: of the backbone, instead of the config's.
        class_names: of the data; None for VOC's number of classes.
    """
    config = config or Config.model_construct()
    if weights is not None:
        if not weights.is_file():
            raise FileNotFoundError(f"--weights: {weights}: no such file")
        config = config.with_values("model", weights=str(weights), checkpoint=None)
    model = build_model(config, 1 + len(class_names) if class_names else 21, class_names=class_names)
    loss, post_process = build_loss(config, model, class_names or ()), build_post_process(config, model)
    return Detector(model, loss, post_process, class_names=class_names).eval()


def read_pictures(arguments: argparse.Namespace, config: Config | None, arms: Mapping[str, Detector]) -> Pictures:
    """Read at most ``--num-images`` pictures: the first files, or evenly over the config's test set.

    Raises:
        ValueError: none can be read, a video or a camera, or the data has other classes than an arm.
    """
    if arguments.images is not None:
        pictures = _read_files(find_sources(arguments.images), arguments.num_images)
    else:
        assert config is not None
        first = next(iter(arms.values()))
        dataset = build_dataset(config, "test", class_names=config.data.class_names or first.class_names)
        for name, detector in arms.items():
            if detector.model.num_classes != 1 + len(dataset.class_names):
                raise ValueError(
                    f"{name}: it has {detector.model.num_classes - 1} classes; those of the data are "
                    f"{', '.join(dataset.class_names)}; give --images, which need no classes"
                )
        count = min(arguments.num_images, len(dataset))
        dataset = subset(dataset, [i * len(dataset) // count for i in range(count)])
        names = [dataset.image_name(i) for i in range(count)]
        pictures = Pictures(names, [dataset.load_image(i) for i in range(count)], dataset=dataset)
    if not pictures.names:
        raise ValueError("no picture could be read" + "".join(f"; {message}" for message in pictures.unreadable[:3]))
    return pictures


def _read_files(sources: Sequence[Path | int], limit: int) -> Pictures:
    pictures = Pictures()
    for source in sources:
        if is_video(source):
            raise ValueError(f"--images: {source}: pictures only, no videos or cameras")
    for path in map(Path, map(str, sources)):
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
