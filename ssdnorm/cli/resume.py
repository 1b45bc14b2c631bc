"""Continue a run: which folder and config, whether it may go on, and whether it becomes longer."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdnorm.config import Config
from ssdnorm.config_file import differences_of_run, read_config
from ssdnorm.files import START_FILE, write_json
from ssdnorm.messages import one_line

log = logging.getLogger("ssdnorm.train")


def find_run(arguments: argparse.Namespace) -> tuple[Path, Path, bool]:
    """The config, the run folder, and whether the run is resumed; raises ``ValueError`` for what is missing."""
    config, output, resume = arguments.config, arguments.output, arguments.resume
    if isinstance(resume, str):
        if output is not None:
            raise ValueError(f"--output: --resume {resume} names the run folder; omit one of the two")
        output = Path(resume)
    if output is None or (config is None and not resume):
        raise ValueError("give --config and --output, or --resume with a run folder")
    if resume and not output.exists():
        raise ValueError(f"--resume: {output}: no such run folder")
    if config is None:
        config = output / "config.yaml"
        if not config.is_file():
            raise ValueError(f"--resume: {output}: no such run folder; {config} is missing")
    return config, output, bool(resume)


def with_recorded_choices(config: Config, output: Path) -> Config:
    """The config with what ``auto`` came to when the run was started."""
    start = read_start(output)
    names = [name for name in ("precision", "batch_size") if getattr(config.training, name) == "auto" and name in start]
    return config.with_values("training", **{name: start[name] for name in names})


def read_start(output: Path) -> dict[str, Any]:
    """The record of the run's start; empty before its first step, and of a damaged file."""
    try:
        return dict(json.loads((output / START_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def check_checkpoint(output: Path, schedule: Mapping[str, Any], *, extends: bool) -> None:
    """Say if a run begins anew; refuse to extend a run without a checkpoint, and record that one is extended."""
    has_checkpoint = any((output / "checkpoints").glob("*.ckpt"))
    if not has_checkpoint and extends:
        raise ValueError(f"--resume: {output}: has no checkpoint to go on from; it cannot be extended")
    if not has_checkpoint and (output / "metrics.csv").exists():
        log.warning("%s: no checkpoint was written yet; the run begins anew", output)
    if not extends:
        return
    start, old = read_start(output), output / "result.json"
    before = start.get("schedule", {})
    if old.exists():
        try:
            steps = int(json.loads(old.read_text(encoding="utf-8"))["steps"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"--resume: {old} is damaged ({one_line(error)}); delete it to evaluate anew") from error
        old.replace(output / f"result_{steps}.json")
        before = {"max_steps": steps, **before}
    log.info("%s: extended from %s to %s", output, before, dict(schedule))
    write_json(output / START_FILE, {**start, "schedule": schedule, "extended": [*start.get("extended", []), before]})


def check_output(output: Path, config: Config, *, resume: bool) -> bool:
    """Whether a run is to be extended beyond its length; refuses one that is there, or resumed with another config."""
    old = output / "config.yaml"
    if not old.exists():
        return False
    if not resume:
        raise ValueError(f"--output: {output} holds a run already; take another folder, or continue it with --resume")
    before = read_config(old)  # keys that an earlier version did not write have their defaults
    differing = differences_of_run(before, config)
    if not differing:
        return False
    if len(differing) == 1 and differing[0] in ("training.max_steps", "training.epochs"):
        name = differing[0].partition(".")[2]
        done, wanted = getattr(before.training, name), getattr(config.training, name)
        if wanted > done:
            return True
        raise ValueError(f"--resume: {differing[0]}: {old} has {done}; a run can be extended, not cut to {wanted}")
    raise ValueError(
        f"--resume: {old}: the run was started with another config; these keys differ: {', '.join(differing)}"
    )
