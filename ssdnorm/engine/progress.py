"""Progress of a training: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, TQDMProgressBar

from ssdnorm.engine.module import TrainingModule

log = logging.getLogger("ssdnorm.engine")

_SECONDS_BETWEEN_LINES = 10.0


def make_progress() -> ProgressBar:
    """The progress bar of a terminal, or lines where standard error is a file."""
    return StepBar() if sys.stderr.isatty() else ProgressLines()


class StepBar(TQDMProgressBar):
    """Lightning's progress bar, in steps, with loss and img/s."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self.train_progress_bar.set_description("batch" if trainer.accumulate_grad_batches > 1 else "step")

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        assert isinstance(pl_module, TrainingModule)
        readings = pl_module.readings
        return {"loss": readings["loss"], "img/s": readings["images_per_second"]} if readings else {}


class ProgressLines(ProgressBar):
    """Log ``step 120 of 400, loss 3.21, 12.3 img/s, 0.8 min to go``, ten seconds or more after the last line."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0  # the first step is logged at once, to show progress from the start
        self._began, self._first = 0.0, 0

    def disable(self) -> None:
        """Lightning's call in all processes but the first; these print nothing anyway."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began, self._first = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, TrainingModule)
        step, last = trainer.global_step, trainer.max_steps
        if step == self._first or not (self._due() or step == last):
            return
        words = [f"step {step} of {last}"]
        if pl_module.readings:
            words += [f"loss {pl_module.readings['loss']:.4g}", f"{pl_module.readings['images_per_second']:.3g} img/s"]
        if step < last:
            seconds = (time.monotonic() - self._began) / (step - self._first) * (last - step)
            words.append(f"{seconds / 3600:.1f} h to go" if seconds > 5400 else f"{seconds / 60:.1f} min to go")
        log.info("%s", ", ".join(words))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        if self._due():
            words = "evaluates on %s images, batch %d of %d"
            log.info(words, pl_module.evaluated_on.name, batch_idx + 1, trainer.num_val_batches[0])

    def _due(self) -> bool:
        due = self.trainer.is_global_zero and time.monotonic() >= self._next
        if due:
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
        return due
