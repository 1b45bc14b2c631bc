"""The metrics file of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from ssdnorm.engine.module import TrainingModule
from ssdnorm.files import ROWS_REMEDY, append_rows, refuse_damage, whole_rows, write_rows

_COLUMNS = [
    *("step", "epoch", "lr", "loss", "bbox_regression", "classification", "images_per_second", "seconds"),
    *("evaluated_on", "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
    *("VOC07", "VOC", "eval_loss", "eval_bbox_regression", "eval_classification"),
]


class MetricsFile(pl.Callback):
    """Write ``metrics.csv``: one row per reading of the losses and per evaluation.

    ``step`` counts optimizer steps, ``epoch`` passes over the training set, ``seconds`` the training time without
    evaluations; ``eval_loss`` and its parts are means over the images evaluated on. A resumed run keeps the rows up to
    its checkpoint and continues from there.

    Args:
        epochs_per_step: on the devices of now; the module knows of steps on others.
    """

    def __init__(self, path: Path, *, epochs_per_step: float) -> None:
        self.path = path
        self.epochs_per_step = epochs_per_step
        self._columns = list(_COLUMNS)
        self._last_written = -1
        # a run killed after its last step is resumed only to evaluate, without on_train_start
        self._seconds = max((float(row["seconds"]) for row in self._rows()), default=0.0)
        self._since: float | None = None
        self._began, self._elapsed_before = time.perf_counter(), 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the file, or truncate it to the step of the checkpoint."""
        if not trainer.is_global_zero:
            return
        rows = [row for row in self._rows() if int(row["step"]) <= trainer.global_step]
        self._columns += [name for name in (rows[0] if rows else ()) if name not in self._columns]
        self._seconds = max((float(row["seconds"]) for row in rows), default=0.0)
        self._since = time.perf_counter()
        write_rows(self.path, self._columns, rows)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        step = trainer.global_step
        if step % pl_module.log_every == 0 and step != self._last_written and pl_module.readings:
            self._last_written = step
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            self._write(trainer, pl_module, {"lr": lr, **pl_module.readings})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seconds, self._since = self._trained(), None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        on = pl_module.evaluated_on.name
        key = {"step": str(trainer.global_step), "evaluated_on": on}.items()
        # a resumed run may have written this evaluation before it was stopped
        is_written = any(key <= row.items() for row in whole_rows(self.path))
        if self.path.exists() and not is_written and pl_module.last_evaluation is not None:
            losses = {f"eval_{name}": value for name, value in pl_module.evaluation_losses.items()}
            self._write(trainer, pl_module, {"evaluated_on": on, **pl_module.last_evaluation[1].metrics, **losses})
        if trainer.state.fn == TrainerFn.FITTING:
            self._since = time.perf_counter()

    def elapsed(self) -> float:
        """Seconds of the run, with evaluations and without the time between a stop and a resume."""
        return self._elapsed_before + time.perf_counter() - self._began

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self.elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._elapsed_before = state_dict["elapsed"]

    def _rows(self) -> list[dict[str, str]]:
        """The rows written so far; ``ValueError`` if they are not those of a run."""
        rows = whole_rows(self.path)
        with refuse_damage(self.path, ROWS_REMEDY):
            for row in rows:
                int(row["step"]), float(row["seconds"])
        return rows

    def _trained(self) -> float:
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)

    def _write(self, trainer: pl.Trainer, module: TrainingModule, values: Mapping[str, float | str]) -> None:
        if trainer.is_global_zero:
            step = trainer.global_step
            fewer = sum(each["step"] * (each["to"] - each["from"]) for each in module.device_changes)
            epoch = (step - fewer / trainer.world_size) * self.epochs_per_step
            row = {"step": step, "epoch": epoch, "seconds": self._trained(), **values}
            if more := [name for name in row if name not in self._columns]:  # other losses or metrics
                self._columns += more
                write_rows(self.path, self._columns, whole_rows(self.path))
            values = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
            append_rows(self.path, [[values.get(name, "") for name in self._columns]])
