"""Load the arms (trained, pretrained or newly drawn) and the pictures of a diagnosis."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssdnorm.build import build_dataset, build_loss, build_model, build_post_process
from ssdnorm.cli import check_no_extra_arguments
from ssdnorm.cli.checks import weights_and_config
from ssdnorm.cli.frames import find_sources, is_video
from ssdnorm.coco_format import ground_truth_table
from ssdnorm.config import Config
from ssdnorm.config_file import read_config, read_evaluation_config
from ssdnorm.data.dataset import DetectionDataset, subset
from ssdnorm.data.images import EncodedImage
from ssdnorm.detector import Detector, load_detector
from ssdnorm.models.foreign import find_family
from ssdnorm.models.tensor_files import read_tensors


def read_arms(arguments: argparse.Namespace, rest: Sequence[str]) -> tuple[dict[str, Detector], Config | None]:
    """The detector that the options name and the one of ``--against``, by name, and the config of the data, if any."""
    weights = arguments.weights
    checkpoint, config_path = weights_and_config(arguments)
    if checkpoint is None and weights is None and config_path is None:
        raise ValueError("give one of --run, --checkpoint, --weights, or --config for a fresh model; got none")
    if config_path is None:
        check_no_extra_arguments(rest)
    read = read_config if checkpoint is None else read_evaluation_config
    config = None if config_path is None else read(config_path, rest)
    if checkpoint is not None:
        name, detector = _load_arm(arguments.run or checkpoint, arguments.allow_norm, class_names=None)
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
    """A detector with newly drawn weights, or a backbone's; by default SSD300 with the paper's norm for VOC."""
    config = config or Config.model_construct()
    if weights is not None:
        config = config.with_values("model", weights=str(weights), checkpoint=None)
    model = build_model(config, 1 + len(class_names) if class_names else 21, class_names=class_names)
    loss, post_process = build_loss(config, model, class_names or ()), build_post_process(config, model)
    return Detector(model, loss, post_process, class_names=class_names).eval()


def read_pictures(
    arguments: argparse.Namespace, config: Config | None, arms: Mapping[str, Detector]
) -> tuple[DetectionDataset, list[str]]:
    """At most ``--num-images`` pictures: the first files, or evenly over the test set; and what is unreadable."""
    if arguments.images is not None:
        return _read_files(find_sources(arguments.images), arguments.num_images)
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
    return subset(dataset, [i * len(dataset) // count for i in range(count)]), []


def _read_files(sources: Sequence[Path | int], limit: int) -> tuple[DetectionDataset, list[str]]:
    for source in sources:
        if is_video(source):
            raise ValueError(f"--images: {source}: pictures only, no videos or cameras")
    images: list[dict[str, Any]] = []
    unreadable = []
    for path in map(str, sources):
        if len(images) == limit:
            break
        try:
            height, width = EncodedImage.read(path).decode().shape[:2]
        except (OSError, ValueError) as error:
            unreadable.append(str(error))
            continue
        images.append({"id": len(images) + 1, "file_name": path, "height": height, "width": width})
    if not images:
        raise ValueError("no picture could be read" + "".join(f"; {message}" for message in unreadable[:3]))
    truth = ground_truth_table({"images": images, "annotations": [], "categories": []})
    return DetectionDataset(truth, [image["file_name"] for image in images]), unreadable
