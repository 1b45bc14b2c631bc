"""Keep the weights of the best evaluation during training, and stop when none has been better for long."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl

from ssdnorm.engine.evaluation import EvaluationResult
from ssdnorm.engine.module import TrainingModule
from ssdnorm.files import whole_rows

log = logging.getLogger("ssdnorm.engine")
_Save = Callable[[EvaluationResult], None]


class BestWeights(pl.Callback):
    """Save the weights whenever an evaluation on the validation images is the best so far.

    The evaluations are read from ``metrics.csv``, so a resumed run goes on as the uninterrupted one would.

    Args:
        metrics_file: of the run; written before this callback is called.
        metric: one of its metrics, higher is better, or ``loss``, lower is better. The first of equal values is kept.
        save: saves the weights that were evaluated, with the evaluation.
        patience: evaluations without a better one after which training stops; None never stops.
    """

    def __init__(self, metrics_file: Path, *, metric: str, save: _Save, patience: int | None) -> None:
        self.metrics_file = metrics_file
        self.metric = metric
        self.save = save
        self.patience = patience

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the weights if they are the best; ask for the end of the training after ``patience``."""
        assert isinstance(pl_module, TrainingModule)
        if pl_module.evaluated_on is not pl_module.validation:
            return
        stop = False
        if trainer.is_global_zero:
            best_step, value, since = self._best()
            if best_step == trainer.global_step:
                assert pl_module.last_evaluation is not None
                self.save(pl_module.last_evaluation[1])
            stop = self.patience is not None and since >= self.patience
            if stop:
                words = "stops at step %d: %s was best at step %d: %.4g"
                log.info(words, trainer.global_step, self.metric, best_step, value)
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(stop, all=False)

    def record(self) -> dict[str, str | int | float]:
        """Metric, value and step of the best evaluation."""
        step, value, _ = self._best()
        return {"metric": self.metric, "value": value, "step": step}

    def _best(self) -> tuple[int, float, int]:
        """Step and value of the best evaluation, and how many came after it."""
        column, sign = ("eval_loss", -1) if self.metric == "loss" else (self.metric, 1)
        rows = [row for row in whole_rows(self.metrics_file) if row["evaluated_on"] == "validation"]
        values = [float(row[column]) for row in rows]
        place = max(range(len(rows)), key=lambda i: -math.inf if math.isnan(values[i]) else sign * values[i])
        return int(rows[place]["step"]), values[place], len(rows) - 1 - place
