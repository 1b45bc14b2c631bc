"""Train a detector: python scripts/train.py --config configs/quickstart.yaml --output runs/quickstart

Every key of the config can be set on the command line, e.g. --norm.backbone batch_norm --optimizer.lr 3e-4;
a norm with options is a mapping: --norm.extras '{kind: group_norm, groups: 16}'.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from docstring_parser import parse as parse_docstring
from pytorch_lightning import Callback

from ssdnorm.build import (
    batch_norm_images,
    build_dataset,
    build_model,
    build_training,
    check_model,
    loop_settings,
)
from ssdnorm.config import Config
from ssdnorm.config_file import config_to_mapping, config_to_yaml, differing_keys, read_config
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.diagnose.training_log import DiagnosticsFile
from ssdnorm.engine.optimizer import describe_groups, groups_table
from ssdnorm.engine.run import is_first_process, train, write_text
from ssdnorm.engine.start import StartFile
from ssdnorm.models.checkpoint import save_checkpoint
from ssdnorm.plots.boxes import contact_sheet, draw_boxes

HELP = "train a detector into a run folder"

log = logging.getLogger("ssdnorm.train")

_PICTURES = 12
_DRAWN_SCORE = 0.4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; config keys come on top."""
    parser.add_argument("--config", required=True, type=Path, help="YAML file; see configs/")
    parser.add_argument("--output", required=True, type=Path, help="the run folder; new, or with --resume an old one")
    parser.add_argument("--resume", action="store_true", help="go on from the run folder's last checkpoint")
    parser.epilog = f"config keys:\n{_describe(Config)}"


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Check everything that can be checked at once, then train."""
    # Large pages for large tensors, where Linux offers them: a training step on a CPU is otherwise slowed down by page
    # faults (0.71 s instead of 0.59 s at width 1/8, batch 16). PyTorch reads this once, at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    config = read_config(arguments.config, rest)
    output: Path = arguments.output
    check_model_at(arguments.config, config)
    first = is_first_process()  # the others of a run find what it leaves
    finished = arguments.resume and (output / "result.json").exists()
    if _finished_or_checked(output, config, resume=arguments.resume) if first else finished:
        log.info("%s: this run is finished; its numbers are in %s", output, output / "result.json")
        return

    train_set = build_dataset(config, "train")
    test_set = build_dataset(config, "test", class_names=train_set.class_names)
    validation_set = None
    if config.data.validation is not None:
        validation_set = build_dataset(config, "validation", class_names=train_set.class_names)
    model = build_model(config, 1 + len(train_set.class_names), class_names=train_set.class_names)
    module = build_training(config, model, train_set=train_set, test_set=test_set, validation_set=validation_set)
    groups = describe_groups(module.make_optimizer(model))  # type: ignore[arg-type]
    start = {"parameter_groups": groups, "batch_norm_images": batch_norm_images(config, model)}

    if first:
        write_text(output / "config.yaml", config_to_yaml(config))
        names = ", ".join(train_set.class_names)
        log.info("%d images to train on, %d to test on; classes: %s", len(train_set), len(test_set), names)
        log.info("%s", groups_table(groups))
    result = train(
        module,
        loop_settings(config, len(train_set)),
        output,
        resume=arguments.resume,
        save_weights=lambda path: save_checkpoint(
            path, model, class_names=train_set.class_names, post_process=vars(config.post_process)
        ),
        record={
            "seed": config.training.seed,
            "parameters": sum(p.numel() for p in model.parameters()),
            **start,
            "class_names": list(train_set.class_names),
        },
        callbacks=[StartFile(output, start), *_diagnostics(config, output)],
    )
    if not first:
        return
    pictures = _draw_some(test_set, result.detections, output / "pictures")
    print(result.table)
    print(f"\nrun folder: {output}\npictures: {pictures}")


def _diagnostics(config: Config, output: Path) -> list[Callback]:
    every = config.runtime.diagnose_every
    return [] if every is None else [DiagnosticsFile(output / "diagnostics.csv", every=every)]


def _draw_some(dataset: DetectionDataset, detections: list[dict[str, Any]], folder: Path) -> Path:
    """Pictures of the first test images with what was found on them; the path of one sheet with all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    label_of = {category: label for label, category in enumerate(dataset.category_ids, 1)}
    pictures = []
    for i in range(min(_PICTURES, len(dataset))):
        found = [d for d in detections if d["image_id"] == dataset.image_id(i) and d["score"] > _DRAWN_SCORE]
        labels = [label_of[d["category_id"]] for d in found]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (d["bbox"] for d in found)]
        captions = [f"{dataset.class_names[c - 1]} {d['score']:.2f}" for c, d in zip(labels, found, strict=True)]
        picture = draw_boxes(dataset.load_image(i), boxes, captions, labels)
        picture.save(folder / f"{i:03d}_{Path(dataset.image_name(i)).stem}.png")
        pictures.append(picture)
    contact_sheet(pictures).save(folder / "sheet.png")
    return folder / "sheet.png"


def check_model_at(path: Path, config: Config) -> None:
    """Refuse a model that cannot be built; the message starts with the config file."""
    try:
        check_model(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _finished_or_checked(output: Path, config: Config, *, resume: bool) -> bool:
    """Whether the run has ended already.

    Raises:
        ValueError: if the folder holds a run and ``resume`` was not asked for, or one with another config.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is a file; a run folder is needed")
    old = output / "config.yaml"
    if not old.exists():
        if resume and not output.exists():
            raise ValueError(f"--resume: {output}: no such run folder")
        return False
    if not resume:
        raise ValueError(f"--output: {output} holds a run already; take another folder, or go on with --resume")
    try:
        before, now = yaml.safe_load(old.read_text(encoding="utf-8")), config_to_mapping(config)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--resume: {old}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(before, dict):
        raise ValueError(f"--resume: {old}: holds no config")
    differences = [key for key in differing_keys(before, now) if not key.startswith("runtime.")]
    if differences:
        raise ValueError(
            f"--resume: {old}: the run was started with another config; these keys differ: {', '.join(differences)}"
        )
    return (output / "result.json").exists()


def _describe(kind: type, prefix: str = "--") -> str:
    """All keys below a dataclass with types, defaults and meanings."""
    lines = []
    meanings = {p.arg_name: p.description or "" for p in parse_docstring(kind.__doc__ or "").params}
    hints = typing.get_type_hints(kind)
    default = kind()
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            inner = typing.cast(type, hints[field.name])
            if field.name in meanings:
                lines.append(f"  {prefix}{field.name}: {' '.join(meanings[field.name].split())}")
            lines.append(_describe(inner, f"{prefix}{field.name}."))
            continue
        value = getattr(default, field.name)
        name = str(field.type).replace("Literal", "").strip()
        text = (
            f"{prefix}{field.name} {name} (default {'null' if value is None else value}) {meanings.get(field.name, '')}"
        )
        lines.append(textwrap.fill(" ".join(text.split()), 110, initial_indent="  ", subsequent_indent="      "))
    return "\n".join(lines)
