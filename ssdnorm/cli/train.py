"""Train a detector into a run folder.

examples:
  ssdnorm train --config quickstart --output runs/quickstart
  ssdnorm train --config bccd --output runs/mine --data.train.root data/mine --data.test.root data/mine
  ssdnorm train --config quickstart --output runs/bn --norm batch_norm --seed 1 --device cpu

Continue an interrupted run with --resume runs/quickstart; with a larger --training.max_steps (or epochs) a finished
run goes on from its last checkpoint. Every key of the config can be set on the command line, e.g.
--norm.backbone batch_norm --optimizer.lr 3e-4; a norm with options: --norm.extras '{kind: group_norm, groups: 16}'.
"""

from __future__ import annotations

import argparse
import logging
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ssdnorm.cli.checks import add_device_key, given_path, output_folder
from ssdnorm.cli.resume import check_checkpoint, check_output, find_run, read_start, with_recorded_choices
from ssdnorm.config import Config
from ssdnorm.config_file import config_to_yaml, flatten, read_config, sections
from ssdnorm.files import FAILURE_FILE, remove_unfinished, write_json, write_text
from ssdnorm.messages import one_line
from ssdnorm.ownership import STALE_SECONDS, owned_folder

if TYPE_CHECKING:
    from pytorch_lightning import Callback

log = logging.getLogger("ssdnorm.train")

_BOUNDED = r"Annotated\[(\w+), Field\(([^)]*)\)\]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options; config keys come on top."""
    parser.add_argument("--config", type=given_path, help="YAML file, or a recipe's name: bccd, voc0712, …")
    parser.add_argument("--output", type=output_folder, help="the run folder; new, or with --resume an old one")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        metavar="RUN",
        help="continue a run from its last checkpoint; needs no --config, which is the run's own",
    )
    parser.add_argument("--seed", dest="training.seed", metavar="SEED", help="short for --training.seed")
    add_device_key(parser)
    parser.epilog = f"config keys:\n{describe_keys()}"


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Check everything that can be checked at once, then train."""
    config_path, output, resume = find_run(arguments)
    config = read_config(config_path, rest)

    # imported here, so that --help and mistakes in the config do not wait for them
    from ssdnorm.build import check_model, num_processes
    from ssdnorm.engine.nodes import check_processes, is_first_process, may_be_restarted

    first, restarted = is_first_process(), may_be_restarted()
    resume = resume or restarted
    with ExitStack() as stack:
        if not first:
            stack.enter_context(_errors_only())
        check_processes(num_processes(config))
        try:
            check_model(config)
        except ValueError as error:
            raise ValueError(f"{config_path}: {error}") from error
        extends = (first or resume) and check_output(output, config, resume=resume)  # others find what the first leaves
        if first:
            # with restarts, the owner before may have been on a machine that is lost
            stack.enter_context(owned_folder(output, further_patience=STALE_SECONDS if restarted else 0.0))
            extends = check_output(output, config, resume=resume)  # another may have owned it meanwhile
            stack.enter_context(_recorded_failure(output))  # of this run: a refusal above says nothing about that one
        _train(output, config, resume=resume, extends=extends, first=first)


@contextmanager
def _errors_only() -> Iterator[None]:
    """Suppress log lines and warnings, which the first process gives."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _train(output: Path, config: Config, *, resume: bool, extends: bool, first: bool) -> None:
    from ssdnorm import build
    from ssdnorm.cli.train_pictures import SHEET, FirstBatch, draw_result
    from ssdnorm.diagnose.training_log import DiagnosticsFile
    from ssdnorm.engine.nodes import SameStart
    from ssdnorm.engine.optimizer import describe_groups, groups_table
    from ssdnorm.engine.run import train
    from ssdnorm.engine.start import StartFile
    from ssdnorm.metrics.thresholds import operating_points, thresholds_of
    from ssdnorm.models.checkpoint import save_checkpoint
    from ssdnorm.settle import settle

    if first:
        remove_unfinished(output, output / "checkpoints", output / "pictures")
    if resume and not extends and (output / "result.json").exists():
        log.info("%s: this run is finished; its numbers are in %s", output, output / "result.json")
        return

    datasets = build.build_datasets(config)
    train_set, test_set = datasets["train"], datasets["test"]
    settled = settle(with_recorded_choices(config, output) if resume else config, num_images=len(train_set))
    model = build.build_model(settled, 1 + len(train_set.class_names), class_names=train_set.class_names)
    module = build.build_training(
        settled, model, train_set=train_set, test_set=test_set, validation_set=datasets.get("validation")
    )
    groups = describe_groups(module.make_optimizer(model))
    o = settled.optimizer
    lengths = {"max_steps": settled.training.max_steps, "warmup_steps": o.warmup_steps, "lr_drops": o.lr_drops}
    start = {
        "parameter_groups": groups,
        "batch_norm_images": build.batch_norm_images(settled, model),
        "precision": settled.training.precision,
        "batch_size": settled.training.batch_size,
        "schedule": lengths,
    }
    first_batch = FirstBatch(output / "pictures" / "train_batches.jpg", train_set.class_names)
    same = SameStart({**start, "class_names": train_set.class_names, "images": len(train_set)})
    callbacks: list[Callback] = [same, StartFile(output, start), first_batch]
    if config.runtime.diagnose_every is not None:
        callbacks.append(DiagnosticsFile(output / "diagnostics.csv", every=config.runtime.diagnose_every))

    if first:
        if resume:
            check_checkpoint(output, lengths, extends=extends)
        write_text(output / "config.yaml", config_to_yaml(config))
        names = ", ".join(train_set.class_names)
        log.info("%d images to train on, %d to test on; classes: %s", len(train_set), len(test_set), names)
        log.info("%s", groups_table(groups))
    result = train(
        module,
        build.loop_settings(settled, len(train_set)),
        output,
        resume=resume,
        save_weights=lambda path, evaluation: save_checkpoint(
            path,
            model,
            class_names=train_set.class_names,
            post_process=vars(config.post_process),
            thresholds=None if evaluation.coco is None else thresholds_of(operating_points(evaluation.coco)),
        ),
        save_pictures=partial(draw_result, test_set, output=output),
        record={
            "seed": config.training.seed,
            "parameters": sum(p.numel() for p in model.parameters()),
            **start,
            "extended": read_start(output).get("extended", []),
            "class_names": list(train_set.class_names),
        },
        callbacks=callbacks,
    )
    if first:
        print(result.table)
        print(f"\nrun folder: {output}\npictures: {output / 'pictures' / SHEET}")


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
                types.setdefault(key, []).append(re.sub(_BOUNDED, r"\1 (\2)", annotation).replace("Literal", ""))
    lines = [
        f"--{key} {' | '.join(dict.fromkeys(types.get(key, ())))} {text}" for key, text in meanings.items() if text
    ]
    return "\n".join(
        textwrap.fill(" ".join(line.split()), 110, initial_indent="  ", subsequent_indent="      ") for line in lines
    )
