"""The loggers of a run: Lightning's, checked before training, resumed where they were, and named in a comparison."""

from __future__ import annotations

import inspect
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from ssdnorm.files import refuse_damage, write_json
from ssdnorm.messages import one_line
from ssdnorm.norm_specs import check_option_names, import_class
from ssdnorm.validation import LOGGERS

IDS_FILE = "loggers.json"  # in a run folder: spec of a tracker → id of the run there
Spec = str | Mapping[str, Any]

_WITH_RUNS = ("wandb", "mlflow")  # have a run of their own, to go on with; each needs the package of its name
_LONGEST_GROUP = 128  # characters, of Weights & Biases
_OURS = {"self", "kwargs", "save_dir", "dir", "log_dir", "version", "id", "run_id", "resume", "experiment"}


class _EventFile(TensorBoardLogger):
    """TensorBoard events alone, without Lightning's empty file of hyperparameters."""

    def save(self) -> None:
        self.experiment.flush()


_CLASSES: dict[str, type[Logger]] = dict(zip(LOGGERS, (_EventFile, CSVLogger, WandbLogger, MLFlowLogger), strict=True))


def check_loggers(specs: Sequence[Spec]) -> None:
    """Refuse loggers whose package is missing, whose class cannot be imported, or that have no such option."""
    for spec in specs:
        kind, options = _parts(spec)
        if kind in _WITH_RUNS and find_spec(kind) is None:
            raise ValueError(f"runtime.loggers: {kind}: is not installed; pip install 'ssdnorm[{kind}]'")
        try:
            known = _option_names(kind)
            if known is not None:
                check_option_names(kind, options, known)
        except ValueError as error:
            raise ValueError(f"runtime.loggers: {error}") from error


def make_loggers(specs: Sequence[Spec], folder: Path, *, settings: Mapping[str, Any]) -> list[Logger]:
    """Make the loggers of the run in ``folder``; a run that was tracked before goes on under the same id.

    Args:
        settings: shown by trackers; nested.

    Raises:
        ValueError: a logger refuses its options, or its server cannot be reached.
    """
    ids_file, loggers = folder / IDS_FILE, []
    with refuse_damage(ids_file, "delete it to begin new runs there"):
        known = dict(json.loads(ids_file.read_text(encoding="utf-8"))) if ids_file.exists() else {}
    for spec in specs:
        kind, options = _parts(spec)
        key = json.dumps(spec, sort_keys=True)
        try:
            logger = _make(kind, options, folder, known.get(key))
            if kind in _WITH_RUNS:
                if key not in known:
                    logger.log_hyperparams(dict(settings))  # begins the run there
                    known[key] = logger.version
                    write_json(ids_file, known)
                elif isinstance(logger, MLFlowLogger):
                    logger.experiment.update_run(known[key], status="RUNNING")
        except Exception as error:  # each package has its own
            raise ValueError(f"runtime.loggers: {kind}: {one_line(error)}") from error
        loggers.append(logger)
    return loggers


@contextmanager
def finished(loggers: Sequence[Logger]) -> Iterator[None]:
    """End the runs of Weights & Biases, of which a process can have one at a time, and say if they failed."""
    code = 1
    try:
        yield
        code = 0
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=code)


def named(specs: Sequence[Spec], labels: Mapping[str, str | int | float]) -> list[Spec]:
    """Specs in which trackers show what a run is in its comparison.

    Args:
        labels: group, and others such as arm and seed, which make the run's name; what a spec gives itself comes first.
    """
    group, others = str(labels["group"])[:_LONGEST_GROUP], {k: v for k, v in labels.items() if k != "group"}
    name = " ".join(f"{key} {value}" for key, value in others.items())
    shown: list[Spec] = []
    for spec in specs:
        kind, options = _parts(spec)
        if kind == "wandb":
            config = {**others, **options.get("config", {})}
            shown.append({"kind": kind, "group": group, "name": name, **options, "config": config})
        elif kind == "mlflow":
            tags = {"group": group, **{k: str(v) for k, v in others.items()}, **options.get("tags", {})}
            shown.append({"kind": kind, "run_name": name, **options, "tags": tags})
        else:
            shown.append(spec)
    return shown


def log_report(
    specs: Sequence[Spec], folder: Path, group: str, metrics: Mapping[str, float], files: Sequence[Path]
) -> None:
    """Log the result of a comparison to its trackers, as a run ``report`` with numbers and files."""
    specs = named([spec for spec in specs if _parts(spec)[0] in _WITH_RUNS], {"group": group, "report": "of all arms"})
    loggers = make_loggers(specs, folder, settings={})
    with finished(loggers):
        for logger in loggers:
            logger.log_metrics(dict(metrics))
            if isinstance(logger, WandbLogger):
                import wandb

                artifact = wandb.Artifact("report", type="report")
                for path in files:
                    artifact.add_file(str(path))
                logger.experiment.log_artifact(artifact)
            elif isinstance(logger, MLFlowLogger):
                for path in files:
                    logger.experiment.log_artifact(logger.run_id, str(path))
                logger.finalize("success")


def _parts(spec: Spec) -> tuple[str, dict[str, Any]]:
    """Kind and options."""
    if isinstance(spec, str):
        return spec, {}
    return str(spec["kind"]), {name: value for name, value in spec.items() if name != "kind"}


def _class_of(kind: str) -> type[Logger]:
    if kind in _CLASSES:
        return _CLASSES[kind]
    found = import_class(kind)
    if not (isinstance(found, type) and issubclass(found, Logger)):
        raise ValueError(f"{kind!r} is no class of Lightning's loggers (pytorch_lightning.loggers.Logger)")
    return found


def _option_names(kind: str) -> set[str] | None:
    """The options of a logger; None if a class takes any."""
    parameters = inspect.signature(_class_of(kind).__init__).parameters
    if kind not in _CLASSES:
        takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
        return None if takes_any else set(parameters) - {"self"}
    names = set(parameters)
    if kind == "wandb":
        names |= set(inspect.signature(import_module("wandb").init).parameters)
    if kind == "tensorboard":
        names |= set(inspect.signature(import_module("torch.utils.tensorboard").SummaryWriter.__init__).parameters)
    return names - _OURS - ({"name"} if kind in ("tensorboard", "csv") else set())


def _make(kind: str, options: Mapping[str, Any], folder: Path, known_id: str | None) -> Logger:
    match kind:
        case "tensorboard":
            return _EventFile(folder, name="", version="tensorboard", **options)
        case "csv":
            return CSVLogger(folder, name="csv", **options)
        case "wandb":
            defaults = {"name": folder.name, "project": os.environ.get("WANDB_PROJECT", "ssdnorm")}
            return WandbLogger(save_dir=folder, id=known_id or secrets.token_hex(4), **{**defaults, **options})
        case "mlflow":
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ssdnorm")
            defaults = {"run_name": folder.name, "experiment_name": experiment, "save_dir": str(folder / "mlruns")}
            return MLFlowLogger(run_id=known_id, **{**defaults, **options})
        case _:
            cls = _class_of(kind)
            takes_folder = "save_dir" in inspect.signature(cls.__init__).parameters
            return cls(**{**({"save_dir": str(folder)} if takes_folder else {}), **options})
