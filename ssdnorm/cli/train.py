"""Train a detector into a run folder.

examples:
  ssdnorm train --config quickstart --output runs/quickstart
  ssdnorm train --config bccd --output runs/mine --data.train.root data/mine --data.test.root data/mine
  ssdnorm train --config quickstart --output runs/bn --norm batch_norm --seed 1 --device cpu

Every key of the config can be set on the command line, e.g. --norm.backbone batch_norm --optimizer.lr 3e-4;
a norm with options is a mapping: --norm.extras '{kind: group_norm, groups: 16}'.
"""

from __future__ import annotations

import argparse
import logging
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdnorm.config import Config
from ssdnorm.config_file import (
    config_to_mapping,
    config_to_yaml,
    differing_keys,
    flatten,
    read_config,
    read_yaml,
    sections,
)
from ssdnorm.files import FAILURE_FILE, remove_unfinished, shortened, write_json, write_text
from ssdnorm.messages import one_line
from ssdnorm.ownership import owned_folder

if TYPE_CHECKING:
    from pytorch_lightning import Callback

    from ssdnorm.data.dataset import DetectionDataset

log = logging.getLogger("ssdnorm.train")

_PICTURES = 12
_SHEET = "sheet.png"  # all of them
_DRAWN_SCORE = 0.4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; config keys come on top."""
    parser.add_argument("--config", required=True, type=Path, help="YAML file, or a recipe's name: bccd, voc0712, …")
    parser.add_argument("--output", required=True, type=Path, help="the run folder; new, or with --resume an old one")
    parser.add_argument("--resume", action="store_true", help="continue from the run folder's last checkpoint")
    parser.epilog = f"config keys:\n{describe_keys()}"


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Check everything that can be checked at once, then train."""
    # Large pages for large tensors, where Linux offers them: a training step on a CPU is otherwise slowed down by page
    # faults (0.71 s instead of 0.59 s at width 1/8, batch 16). PyTorch reads this once, at its first allocation.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    config = read_config(arguments.config, rest)

    # imported here, so that --help and mistakes in the config do not wait for them
    from ssdnorm import build
    from ssdnorm.engine.run import is_first_process

    try:
        build.check_model(config)
    except ValueError as error:
        raise ValueError(f"{arguments.config}: {error}") from error
    if not is_first_process():  # finds what the first leaves
        _train(arguments.output, config, resume=arguments.resume, first=False)
        return
    _check_output(arguments.output, config, resume=arguments.resume)
    with owned_folder(arguments.output), _recorded_failure(arguments.output):
        _check_output(arguments.output, config, resume=arguments.resume)  # another may have owned it meanwhile
        _train(arguments.output, config, resume=arguments.resume, first=True)


def _train(output: Path, config: Config, *, resume: bool, first: bool) -> None:
    from ssdnorm import build
    from ssdnorm.diagnose.training_log import DiagnosticsFile
    from ssdnorm.engine.optimizer import describe_groups, groups_table
    from ssdnorm.engine.run import train
    from ssdnorm.engine.start import StartFile
    from ssdnorm.models.checkpoint import save_checkpoint

    if first:
        remove_unfinished(output, output / "checkpoints", output / "pictures")
    if resume and (output / "result.json").exists():
        log.info("%s: this run is finished; its numbers are in %s", output, output / "result.json")
        return

    train_set = build.build_dataset(config, "train")
    test_set = build.build_dataset(config, "test", class_names=train_set.class_names)
    validation_set = None
    if config.data.validation is not None:
        validation_set = build.build_dataset(config, "validation", class_names=train_set.class_names)
    model = build.build_model(config, 1 + len(train_set.class_names), class_names=train_set.class_names)
    module = build.build_training(config, model, train_set=train_set, test_set=test_set, validation_set=validation_set)
    groups = describe_groups(module.make_optimizer(model))  # type: ignore[arg-type]
    start = {"parameter_groups": groups, "batch_norm_images": build.batch_norm_images(config, model)}
    callbacks: list[Callback] = [StartFile(output, start)]
    if config.runtime.diagnose_every is not None:
        callbacks.append(DiagnosticsFile(output / "diagnostics.csv", every=config.runtime.diagnose_every))

    if first:
        write_text(output / "config.yaml", config_to_yaml(config))
        names = ", ".join(train_set.class_names)
        log.info("%d images to train on, %d to test on; classes: %s", len(train_set), len(test_set), names)
        log.info("%s", groups_table(groups))
    result = train(
        module,
        build.loop_settings(config, len(train_set)),
        output,
        resume=resume,
        save_weights=lambda path: save_checkpoint(
            path, model, class_names=train_set.class_names, post_process=vars(config.post_process)
        ),
        save_pictures=lambda result: _draw_some(test_set, result.detections, output / "pictures"),
        record={
            "seed": config.training.seed,
            "parameters": sum(p.numel() for p in model.parameters()),
            **start,
            "class_names": list(train_set.class_names),
        },
        callbacks=callbacks,
    )
    if first:
        print(result.table)
        print(f"\nrun folder: {output}\npictures: {output / 'pictures' / _SHEET}")


@contextmanager
def _recorded_failure(output: Path) -> Iterator[None]:
    """Write why a run failed to ``failure.json``, unless the run did, and once there is a run."""
    (output / FAILURE_FILE).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        if (output / "config.yaml").exists() and not (output / FAILURE_FILE).exists():
            with suppress(OSError):  # the disk is full: the error itself says so
                write_json(output / FAILURE_FILE, {"status": "failed", "reason": one_line(error)})
        raise


def _draw_some(dataset: DetectionDataset, detections: list[dict[str, Any]], folder: Path) -> None:
    """Draw the first test images with their detections, and a sheet with all of them."""
    from ssdnorm.plots.boxes import contact_sheet, draw_boxes, save_picture

    label_of = {category: label for label, category in enumerate(dataset.category_ids, 1)}
    pictures = []
    for i in range(min(_PICTURES, len(dataset))):
        found = [d for d in detections if d["image_id"] == dataset.image_id(i) and d["score"] > _DRAWN_SCORE]
        labels = [label_of[d["category_id"]] for d in found]
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (d["bbox"] for d in found)]
        captions = [f"{dataset.class_names[c - 1]} {d['score']:.2f}" for c, d in zip(labels, found, strict=True)]
        picture = draw_boxes(dataset.load_image(i), boxes, captions, labels)
        save_picture(picture, folder / f"{i:03d}_{shortened(Path(dataset.image_name(i)).stem, 200)}.png")
        pictures.append(picture)
    save_picture(contact_sheet(pictures), folder / _SHEET)


def _check_output(output: Path, config: Config, *, resume: bool) -> None:
    """Raise ``ValueError`` for a folder that holds a run, or with ``resume`` one with another config."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is a file; a run folder is needed")
    old = output / "config.yaml"
    if not old.exists():
        if resume and not output.exists():
            raise ValueError(f"--resume: {output}: no such run folder")
        return
    if not resume:
        raise ValueError(f"--output: {output} holds a run already; take another folder, or continue it with --resume")
    before = read_yaml(old)
    if not isinstance(before, Mapping):
        raise ValueError(f"--resume: {old}: holds no config")
    differing = differing_keys(before, config_to_mapping(config))
    if differing := [key for key in differing if not key.startswith("runtime.")]:
        raise ValueError(
            f"--resume: {old}: the run was started with another config; these keys differ: {', '.join(differing)}"
        )


def describe_keys() -> str:
    """Every key of a config, with type, default and meaning."""
    defaults = flatten(Config.model_construct().model_dump(), where="defaults")
    types: dict[str, list[str]] = {}
    meanings: dict[str, str] = {}
    for section, models in sections(Config).items():
        for name, field, annotation in (
            (n, f, m.__annotations__[n]) for m in models for n, f in m.model_fields.items()
        ):
            key = f"{section}.{name}".lstrip(".")
            default = defaults.get(key, field.default)
            given = field.is_required() or key in sections(Config)
            said = "" if given else f"(default {'null' if default is None else default}) "
            meanings.setdefault(key, f"{said}{field.description or ''}")
            if key not in sections(Config):
                types.setdefault(key, []).append(annotation.replace("Literal", ""))
    lines = [
        f"--{key} {' | '.join(dict.fromkeys(types.get(key, ())))} {text}" for key, text in meanings.items() if text
    ]
    return "\n".join(
        textwrap.fill(" ".join(line.split()), 110, initial_indent="  ", subsequent_indent="      ") for line in lines
    )
