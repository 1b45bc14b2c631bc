"""This file is about watching a training: what becomes of the taps, scales and gradients, in ``diagnostics.csv``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.optim import Optimizer

from ssdnorm.diagnose.ssd_parts import SSDParts, block_of, find_ssd_parts
from ssdnorm.diagnose.training_maps import LENGTH_QUANTILES, TrainingMaps
from ssdnorm.diagnose.untouched import untouched
from ssdnorm.files import replaced_file, whole_rows

_COLUMNS = ["step", "statistic", "name", "value"]
_Key = tuple[str, str]  # statistic, name


class DiagnosticsFile(pl.Callback):
    """Writes ``diagnostics.csv``, a row for each number; the same, and figures, go to the run's loggers.

    ``step`` counts the optimizer steps done before the measurement, so step 0 is the network as it was drawn. Measured
    are the steps 0, ``every``, 2 · ``every``, … and the last, on the batch that this step trains on; with several
    processes, on the first one's part of it.

    | statistic | name | meaning |
    |---|---|---|
    | mean, std, rms | layer | of the single values, after the ReLU |
    | length_mean, length_p05, length_median, length_p95 | layer | L2 length over the channels at each position, there |
    | zero_positions | layer | share of positions where all channels are 0, after the ReLU |
    | dead_channels | layer | share of channels that are 0 at all positions of the batch, after the ReLU |
    | length_before, length_after | tap | L2 length over the channels, mean over positions, around its norm slot |
    | rms_before, rms_after | tap | root mean square of the single values, around its norm slot |
    | scale_mean, scale_std, scale_min, scale_max | tap | of its norm's weights, where it has one a channel |
    | gradient_norm | conv1 … conv5, fc6, fc7, conv8 …, head, tap_norms | L2 length before clipping, in true units |

    A tap that is no such layer counts as one, with what comes before its norm slot. Loggers that take figures, as
    TensorBoard does, get one of the lengths by layer (``diagnostics/lengths``) and, for each tap, histograms of the
    finite lengths at all positions around its norm slot (``lengths_before``, ``lengths_after``).

    Between measured steps it does nothing. At a measured one, hooks are on from the batch's start to the backward pass;
    they read and change nothing, and all numbers come to the host at once.

    It needs a model with a module that has an ``nn.ModuleDict`` called ``tap_norms``, and beside it ``backbone`` and
    ``extras`` (either may be missing) whose children have ``conv`` and ``relu``; parameters are told apart by these
    names and by ``head``.

    If any module is compiled by ``torch.compile``, which does not see hooks, the maps are measured by one more forward
    pass of ``pl_module(batch.images)`` in eager mode. Batch norm's statistics and the state of the random numbers are
    put back, so the training stays the same; dropout then draws another mask than the step.

    A resumed run keeps the rows of the steps before its checkpoint and goes on as the uninterrupted one would.

    Args:
        path: of the file.
        every: optimizer steps from one measurement to the next.

    Raises:
        ValueError: every below 1; when the training starts, a model without the modules it needs.
    """

    def __init__(self, path: Path, *, every: int) -> None:
        if every < 1:
            raise ValueError(f"DiagnosticsFile: every is 1 step or more; got {every}")
        self.path = path
        self.every = every
        self._parts: SSDParts | None = None
        self._compiled = False
        self._step: int | None = None
        self._maps: TrainingMaps | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the modules; start the file, or cut it back to the step of the checkpoint."""
        self._parts = find_ssd_parts(pl_module)
        if self._parts is None:
            raise ValueError(
                f"DiagnosticsFile: no taps found in {type(pl_module).__name__}: it needs a module with an "
                "nn.ModuleDict called tap_norms, as SSDFeatures has"
            )
        self._compiled = any(_is_compiled(module) for module in pl_module.modules())
        if not trainer.is_global_zero:
            return
        rows = [row for row in whole_rows(self.path) if int(row["step"]) < trainer.global_step]
        with replaced_file(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put the hooks on, if this step is to be measured."""
        step = trainer.global_step
        self._step = step if step % self.every == 0 or step == trainer.max_steps - 1 else None
        if self._step is None:
            return
        assert self._parts is not None
        self._maps = TrainingMaps(self._parts)
        if self._compiled:  # in all processes: synchronised batch norms wait for each other
            with trainer.precision_plugin.forward_context():
                self._measure_by_another_pass(pl_module, batch.images)
        elif trainer.is_global_zero:
            self._maps.put_hooks_on()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Take the hooks off."""
        self._take_hooks_off()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure gradients and scales, which the step is about to change."""
        if self._step is None or self._maps is None or not trainer.is_global_zero:
            return
        numbers = self._maps.numbers
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        unscales_itself = getattr(optimizer, "_step_supports_amp_scaling", False)  # then Lightning has not done so
        loss_scale = scaler.get_scale() if scaler is not None and unscales_itself else 1.0
        for block, length in _gradient_norms(pl_module).items():
            numbers["gradient_norm", block] = length / loss_scale
        for name, weight in self._maps.parts.tap_scales().items():
            w = weight.float()
            numbers["scale_mean", name], numbers["scale_std", name] = w.mean(), w.std(correction=0)
            numbers["scale_min", name], numbers["scale_max", name] = w.min(), w.max()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what was measured, once the optimizer has stepped."""
        self._take_hooks_off()
        step, maps = self._step, self._maps
        if step is None or maps is None or not maps.numbers:
            return
        if trainer.global_step == step or not trainer.is_global_zero:  # gradients are still gathered; the first writes
            return
        self._step = self._maps = None
        numbers, tap_lengths = _to_host(maps)
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows((step, *key, f"{value:.6g}") for key, value in numbers.items())
        for logger in trainer.loggers:
            logger.log_metrics({_tag(key): value for key, value in numbers.items()}, step=step)
            _draw(logger, numbers, tap_lengths, maps.layers(), step)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._take_hooks_off()

    def _take_hooks_off(self) -> None:
        if self._maps is not None:
            self._maps.take_hooks_off()

    def _measure_by_another_pass(self, pl_module: pl.LightningModule, images: Tensor) -> None:
        assert self._maps is not None
        with untouched(pl_module), torch.no_grad():
            try:
                self._maps.put_hooks_on()
                pl_module(images)
            finally:
                self._take_hooks_off()


def _to_host(maps: TrainingMaps) -> tuple[dict[_Key, float], dict[_Key, Tensor]]:
    """The numbers, sorted by statistic, and the lengths at the taps: all in one transfer."""
    on_device = [torch.stack([value.float() for value in maps.numbers.values()]), *maps.tap_lengths.values()]
    numbers, *lengths = torch.cat([x.float() for x in on_device]).cpu().split([len(x) for x in on_device])
    by_key = dict(zip(maps.numbers, numbers.tolist(), strict=True))
    return {key: by_key[key] for key in sorted(by_key, key=lambda key: key[0])}, dict(
        zip(maps.tap_lengths, lengths, strict=True)
    )


def _draw(
    logger: Logger, numbers: dict[_Key, float], tap_lengths: dict[_Key, Tensor], layers: list[str], step: int
) -> None:
    """The lengths as histograms and as a figure, where the logger takes such."""
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_histogram"):
        for key, lengths in tap_lengths.items():
            finite = lengths[lengths.isfinite()]
            if len(finite):
                experiment.add_histogram(_tag(key), finite, step)
    if hasattr(experiment, "add_figure"):
        from ssdnorm.diagnose.figures import plot_length_quantiles  # loads matplotlib, which other runs need not

        quantiles = {name: {q: numbers[key, name] for key, q in LENGTH_QUANTILES.items()} for name in layers}
        experiment.add_figure("diagnostics/lengths", plot_length_quantiles(quantiles), step, close=False)


def _tag(key: _Key) -> str:
    return "diagnostics/" + "/".join(key)


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or hasattr(module, "_orig_mod")


@torch.no_grad()
def _gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    lengths: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        block = block_of(name)
        if block is not None and parameter.grad is not None:
            lengths.setdefault(block, []).append(torch.linalg.vector_norm(parameter.grad.float()))
    return {block: torch.linalg.vector_norm(torch.stack(parts)) for block, parts in lengths.items()}
