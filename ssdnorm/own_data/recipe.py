"""Choose a config for a data set: splits, default boxes, steps and rates."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssdnorm.boxes.default_boxes import DefaultBoxSpec
from ssdnorm.build import build_dataset, model_of_shapes, names_for_only
from ssdnorm.config import Config
from ssdnorm.config_file import config_to_yaml, merge_config
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.data.formats import FoundData
from ssdnorm.data.splits import stratified_split
from ssdnorm.files import write_text
from ssdnorm.norm_specs import norm_kind
from ssdnorm.own_data.survey import Objects, default_box_keys, percent
from ssdnorm.settle import in_steps

_HELD_OUT = 0.15  # of the images, for each of validation and test where they are missing
_EPOCHS, _LEAST_STEPS, _MOST_STEPS = 60, 1000, 120_000  # from scratch; half of them from weights
_SIDES = (160, 224, 300)  # of the input; the time of a step grows with the square
_ENOUGH = 0.9  # of the objects covered by default boxes
_FEW = 20  # objects of a class
_FAST, _SLOW = 0.01, 0.001  # learning rates from weights: with a norm that keeps activations in range, and without


@dataclass(frozen=True)
class Recipe:
    """A config for a data set, and why it is as it is.

    Attributes:
        config: validated; ``data`` names the lists of ``splits`` as ``only``.
        splits: file → its lines, where a split had to be made.
        notes: one sentence per choice.
    """

    config: Config
    splits: dict[str, list[str]]
    notes: list[str]

    def write(self, path: Path) -> None:
        """Write the config, and the lists of the splits that were made beside it."""
        for name, lines in self.splits.items():
            write_text(name, "".join(f"{line}\n" for line in lines))
        header = "".join(f"# {note}\n" for note in self.notes)
        write_text(path, header + config_to_yaml(self.config))


def read_datasets(config: Config) -> dict[str, DetectionDataset]:
    """The splits of a config that are data sets of their own, by name."""
    train = build_dataset(config, "train")
    datasets = {"train": train}
    for name in ("validation", "test"):
        source = getattr(config.data, name)
        if source is not None and all(source != getattr(config.data, other) for other in datasets):
            datasets[name] = build_dataset(config, name, class_names=train.class_names)
    return datasets


def config_for(found: FoundData, *layers: tuple[str, Mapping[str, Any]]) -> Config:
    """A config with the data as they are found, a missing test split replaced by validation or training images."""
    data: dict[str, Any] = {"train": found.splits["train"]}
    data["test"] = found.splits.get("test") or found.splits.get("validation") or data["train"]
    if "validation" in found.splits:
        data["validation"] = found.splits["validation"]
    return merge_config(("the data", {"data": data}), *layers)


def network_of(config: Config) -> tuple[DefaultBoxSpec, list[str]]:
    """Default boxes and taps of the network that a config describes, built without memory."""
    model = model_of_shapes(config)
    return model.spec, list(model.features.tap_channels)  # type: ignore[arg-type]


def choose_recipe(
    found: FoundData,
    path: Path,
    *,
    image_size: int | list[int] | None,
    weights: str | None,
    seed: int,
    overrides: Mapping[str, Any],
) -> Recipe:
    """Choose a config for the data.

    Args:
        path: where the config will be written; split lists get its name.
        image_size: of the network's input: a side, or [height, width]; None: the smallest of three at which fitted
            default boxes cover nine tenths of the objects.
        weights: of the backbone; None trains a narrow network with batch norm from scratch.
        seed: of splits that are made, and of the training.
        overrides: dotted config keys that count more than what is chosen here.
    """
    image_size = image_size or overrides.get("model.image_size")
    sizes = [image_size] if image_size else _SIDES
    norm = {"backbone": "batch_norm", "extras": "batch_norm", "taps": {"conv4_3": "none"}}
    known = {"norm": norm, "model": _network(sizes[-1], weights)}
    first = config_for(found, ("ssdnorm init", known), ("command line", overrides))
    kind = norm_kind(first.norm.backbone)
    train = build_dataset(first, "train")
    data, splits, notes = _splits(found, train, path, seed)
    if first.loss.focal is None and "data.train.only" not in overrides:
        notes += _leave_out_empty(train, data, splits, _list_file(path, "train"))
    num_images = len(splits.get(str(_list_file(path, "train")), ())) or len(train)
    objects = Objects.of(train)
    network, fit = _fitted(found, objects, sizes, weights, overrides)
    notes += fit
    batch = 8 if num_images < 2000 else 16 if num_images < 10_000 else 32
    part = 1.0 if weights is None else 0.5
    steps = math.ceil(_EPOCHS * num_images / batch / 100) * 100
    steps = int(part * min(_MOST_STEPS, max(_LEAST_STEPS, steps)))
    optimizer: dict[str, Any] = {
        "norms": {"lr_factor": 1.0, "weight_decay": 0.0},
        "biases": {"lr_factor": 1.0, "weight_decay": 0.0},
        "warmup_steps": 0.05,
        "warmup_factor": 0.02,
    }
    if weights is None:
        network |= {"width": 0.25, "dropout": 0.0}
        optimizer |= {"name": "adamw", "lr": 0.002, "schedule": "cosine"}
        start = "from scratch; where bf16 is fast, as on GPUs, prefer --weights"
        if overrides.get("model.checkpoint"):
            start = "from a checkpoint"
    else:
        network |= {"width": 1.0, "dropout": 0.0}
        optimizer |= {"lr": _SLOW if kind in ("none", "frozen_batch_norm") else _FAST, "lr_drops": [0.7, 0.9]}
        start = "ImageNet weights"
    if not overrides.get("model.checkpoint"):
        notes += _few_objects(objects, train.class_names)
    chosen = {
        "norm": norm,
        "model": network,
        "data": data,
        "augment": {"photometric": True, "zoom_out": False, "iou_crop": True, "flip": True},
        "optimizer": optimizer,
        "training": {
            "max_steps": steps, "batch_size": batch, "seed": seed, "precision": "auto", "clip_grad_norm": 10.0,
            "eval_every": 0.2, "checkpoint_every": 200,
        },
    }  # fmt: skip
    config = config_for(found, ("ssdnorm init", chosen), ("command line", overrides))
    normed = "no norm in its convolutions" if kind == "none" else kind.replace("_", " ")
    notes.append(f"network: {config.model.width:g} times VGG16's channels, {normed}, {start}")
    if config.training.batch_size != "auto":
        batch = config.training.batch_images * config.training.accumulate
        steps = in_steps(config, batch, num_images).training.num_steps
        passes = steps * batch / num_images
        notes.append(f"steps: {steps} of {batch} images, {passes:.0f} times each of {num_images} pictures")
    notes.append("flip: mirrors pictures; set augment.flip to false where left and right differ, as in text")
    return Recipe(config, splits, notes)


def _few_objects(objects: Objects, class_names: Sequence[str]) -> list[str]:
    """What to do about classes with too few objects to learn from."""
    counts = np.bincount(objects.labels.numpy(), minlength=1 + len(class_names))[1:]
    enough = [name for name, count in zip(class_names, counts, strict=True) if count >= _FEW]
    if len(enough) == len(class_names):
        return []
    names = shlex.quote(json.dumps(enough, ensure_ascii=False))
    fewer = f"leave the others out (--data.class_names {names}), " if enough else ""
    detector = "--model.checkpoint FILE --model.head fresh --model.width 1"
    few = f"{len(class_names) - len(enough)} of {len(class_names)} have fewer than {_FEW} objects"
    return [f"classes: {few}, too few to learn from: collect more, {fewer}or start from a detector ({detector})"]


def _network(image_size: int | list[int], weights: str | None) -> dict[str, Any]:
    """Keys of a network for an input."""
    names = {300: "ssd300_vgg16", 512: "ssd512_vgg16"}
    name = names.get(image_size, "ssd_vgg16") if isinstance(image_size, int) else "ssd_vgg16"
    return {"name": name, "image_size": image_size, "weights": weights}


def _fitted(
    found: FoundData,
    objects: Objects,
    sizes: Sequence[int | list[int]],
    weights: str | None,
    overrides: Mapping[str, Any],
) -> tuple[dict[str, Any], list[str]]:
    """A network with fitted default boxes, for the first size at which they cover enough objects, or the last."""
    for size in sizes:
        network = _network(size, weights)
        config = config_for(found, ("ssdnorm init", {"model": network}), ("command line", overrides))
        if config.model.default_boxes is not None:
            continue  # default boxes are given, in pixels of the last size
        usual, _ = network_of(config)
        proposal = objects.suggest(usual)
        network["default_boxes"] = default_box_keys(proposal)
        if len(objects.labels) and float(objects.covered(proposal).float().mean()) >= _ENOUGH:
            break
    if "default_boxes" not in network:
        return network, []
    before, after = (percent(objects.covered(each)) for each in (usual, proposal))
    fit = f"fitted to the objects; {after} have one at IoU .5 or more, {before} with the usual ones"
    return network, [f"image size: {size} pixels; --image-size chooses another", f"default boxes: {fit}"]


def _splits(
    found: FoundData, train: DetectionDataset, path: Path, seed: int
) -> tuple[dict[str, Any], dict[str, list[str]], list[str]]:
    """Sources of the data section, lists of the splits that are made, and what is to be said about them."""
    sources: dict[str, Any] = dict(found.splits)
    if "validation" in sources:
        shared = "" if "test" in sources else "; the validation images are the test images, so best is not a test"
        return {"test": sources["validation"], **sources}, {}, [f"splits: as found{shared}"]
    made = [name for name in ("validation", "test") if name not in sources]
    if len(train) < 2 + len(made):
        raise ValueError(f"{found.splits['train']}: {len(train)} pictures are too few to split")
    parts = stratified_split(train.ground_truth, [1 - _HELD_OUT * len(made), *[_HELD_OUT] * len(made)], seed=seed)
    lists, names = {}, names_for_only(train)
    for name, places in zip(("train", *made), parts, strict=True):
        file = _list_file(path, name)
        sources[name] = {**found.splits["train"], "only": str(file)}
        lists[str(file)] = [names[place] for place in np.asarray(places).tolist()]
    said = ", ".join(f"{len(lists[str(_list_file(path, name))])} {name}" for name in ("train", *made))
    return sources, lists, [f"splits: {said} pictures, made from the training pictures class by class with seed {seed}"]


def _leave_out_empty(
    train: DetectionDataset, sources: dict[str, Any], lists: dict[str, list[str]], file: Path
) -> list[str]:
    """List only training pictures with objects: hard negatives are mined beside objects, so others teach nothing."""
    chosen = lists.get(str(file))
    names = names_for_only(train)
    filled = {name for i, name in enumerate(names) if len(train.training_boxes(i)[1])}
    kept = [name for name in chosen or names if name in filled]
    if not kept or len(kept) == len(chosen or names):
        return []
    sources["train"] = {**sources["train"], "only": str(file)}
    lists[str(file)] = kept
    return [
        f"without objects: {len(chosen or names) - len(kept)} training pictures, left out; the loss does not use them"
    ]


def _list_file(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}.{name}.txt")
