"""Log taps, scales and gradients during training to ``diagnostics.csv``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssdnorm.diagnose.activations import ActivationStatistics, activation_statistics
from ssdnorm.diagnose.layers import SSDParts, block_of, find_ssd_parts, scale_statistics
from ssdnorm.files import ROWS_REMEDY, append_rows, refuse_damage, whole_rows, write_rows

_STATISTICS = ("mean", "std", "rms", "length_mean", "zero_positions", "dead_channels")
_LENGTH_QUANTILES = {"length_p05": 0.05, "length_median": 0.5, "length_p95": 0.95}
_COLUMNS = ["step", "statistic", "name", "value"]
_Key = tuple[str, str]  # statistic, name


class DiagnosticsFile(pl.Callback):
    """Write ``diagnostics.csv``, one number per row; log the same numbers, and a figure, to the run's loggers.

    Measures steps 0, ``every``, 2 · ``every``, … and the last, on the batch that the step trains on (with several
    processes, on that of the first; with accumulated gradients, on the first batch). ``step`` counts the optimizer
    steps before the measurement.

    The statistics are mean, std, rms, length_mean, length_p05, length_median, length_p95, zero_positions and
    dead_channels of a layer's map after its ReLU; length_before, length_after, rms_before and rms_after of a tap around
    its norm slot; scale_mean, scale_std, scale_min and scale_max of a tap norm's weights, if it has one per channel;
    gradient_norm of conv1 … conv5, fc6, fc7, conv8 …, head and tap_norms, before clipping and without loss scaling.
    Lengths are L2 lengths over the channels at each position. A tap that is not such a layer counts as one, measured
    before its norm slot. Loggers that take figures, such as TensorBoard, also get the lengths by layer
    (``diagnostics/lengths``).

    Maps are measured before the step, in one more forward pass of ``pl_module(batch.images)``: in train mode, eager
    where the model is compiled, with dropout masks of its own. It does not change the training.

    The model needs a module with an ``nn.ModuleDict`` called ``tap_norms``, and optionally ``backbone`` and ``extras``
    whose children have ``conv`` and ``relu``; parameters are grouped by these names and ``head``.

    A resumed run keeps the rows before its checkpoint and continues as the uninterrupted one would.

    Args:
        path: of the file.
        every: optimizer steps from one measurement to the next.

    Raises:
        ValueError: every below 1; at the start of training, a model without the modules it needs.
    """

    def __init__(self, path: Path, *, every: int) -> None:
        if every < 1:
            raise ValueError(f"DiagnosticsFile: every is 1 step or more; got {every}")
        self.path = path
        self.every = every
        self._parts: SSDParts | None = None
        self._found: ActivationStatistics | None = None  # of a step whose gradients are not computed yet

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the modules; start the file, or truncate it to the step of the checkpoint."""
        self._parts, self._found = find_ssd_parts(pl_module), None
        if self._parts is None:
            raise ValueError(
                f"DiagnosticsFile: no taps found in {type(pl_module).__name__}: it needs a module with an "
                "nn.ModuleDict called tap_norms, as SSDFeatures has"
            )
        if not trainer.is_global_zero:
            return
        with refuse_damage(self.path, ROWS_REMEDY):
            rows = [
                {name: row[name] for name in _COLUMNS}
                for row in whole_rows(self.path)
                if int(row["step"]) < trainer.global_step
            ]
        write_rows(self.path, _COLUMNS, rows)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
        """Measure the maps if this step is due."""
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps - 1
        if not due or self._found is not None:  # gradients still accumulate
            return

        def forward(module: nn.Module, batch: Any) -> Any:
            torch.manual_seed(step)  # dropout masks that a resumed run repeats
            return module(batch.images)

        with trainer.precision_plugin.forward_context():  # in all processes: synchronised batch norms communicate
            self._found = activation_statistics(pl_module, [batch], forward=forward, train_mode=True)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure gradients and scales before the step changes them, and write the measurement."""
        found, self._found = self._found, None
        if found is None or not trainer.is_global_zero:
            return
        assert self._parts is not None
        numbers = _map_numbers(found, self._parts.tap_norms)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        # a fused optimizer unscales the gradients itself; for others Lightning has done so before
        unscales_itself = getattr(optimizer, "_step_supports_amp_scaling", False)
        loss_scale = scaler.get_scale() if scaler is not None and unscales_itself else 1.0
        for block, length in _gradient_norms(pl_module).items():
            numbers["gradient_norm", block] = length.item() / loss_scale
        for name, weight in self._parts.tap_scales().items():
            numbers |= {(f"scale_{statistic}", name): value for statistic, value in scale_statistics(weight).items()}
        step, rows = trainer.global_step, sorted(numbers.items(), key=lambda row: row[0][0])
        append_rows(self.path, [(step, *key, f"{value:.6g}") for key, value in rows])
        for logger in trainer.loggers:
            logger.log_metrics({"/".join(("diagnostics", *key)): value for key, value in rows}, step=step)
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_figure"):
                from ssdnorm.diagnose.figures import plot_depth  # loads matplotlib

                experiment.add_figure("diagnostics/lengths", plot_depth({f"step {step}": found}), step, close=False)


def _map_numbers(found: ActivationStatistics, taps: Collection[str]) -> dict[_Key, float]:
    numbers: dict[_Key, float] = {}
    for name, row in found.activations.items():
        tap = name.removeprefix("tap ")
        if tap in taps:
            side = "before" if name == tap else "after"
            numbers |= {(f"length_{side}", tap): row.length_mean, (f"rms_{side}", tap): row.rms}
        if name == tap:
            numbers |= {(statistic, name): getattr(row, statistic) for statistic in _STATISTICS}
            numbers |= {(statistic, name): row.length_quantiles[q] for statistic, q in _LENGTH_QUANTILES.items()}
    return numbers


@torch.no_grad()
def _gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    lengths: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        block = block_of(name)
        if block is not None and parameter.grad is not None:
            lengths.setdefault(block, []).append(torch.linalg.vector_norm(parameter.grad.float()))
    return {block: torch.linalg.vector_norm(torch.stack(parts)) for block, parts in lengths.items()}
