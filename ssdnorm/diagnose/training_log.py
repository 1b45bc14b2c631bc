"""This file is about watching a training: what becomes of the taps, scales and gradients, in ``diagnostics.csv``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ssdnorm.diagnose.maps import dead_channels, position_lengths, root_mean_square, zero_positions
from ssdnorm.diagnose.ssd_parts import SSDParts, block_of, find_ssd_parts
from ssdnorm.diagnose.untouched import untouched

_COLUMNS = ["step", "statistic", "name", "value"]


class DiagnosticsFile(pl.Callback):
    """Writes ``diagnostics.csv``, a row for each number, and the same to the run's loggers.

    ``step`` counts the optimizer steps done before the measurement, so step 0 is the network as it was drawn. Measured
    are the steps 0, ``every``, 2 · ``every``, … and the last, on the batch that this step trains on; with several
    processes, on the first one's part of it.

    | statistic | name | meaning |
    |---|---|---|
    | length_before, length_after | tap | L2 length over the channels, mean over positions, around its norm slot |
    | rms_before, rms_after | tap | root mean square of the single values, around its norm slot |
    | zero_positions | tap | share of positions where all channels are 0, before its norm slot |
    | dead_channels | layer or tap | share of channels that are 0 at all positions of the batch, after the ReLU |
    | scale_mean, scale_std, scale_min, scale_max | tap | of its norm's weights, where it has one a channel |
    | gradient_norm | conv1 … conv5, fc6, fc7, conv8 …, head, tap_norms | L2 length before clipping, in true units |

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
        self._measured: dict[tuple[str, str], Tensor] = {}
        self._handles: list[RemovableHandle] = []

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
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) < trainer.global_step]
        with self.path.open("w", newline="") as file:
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
        self._measured = {}
        if self._compiled:  # in all processes: synchronised batch norms wait for each other
            with trainer.precision_plugin.forward_context():
                self._measure_by_another_pass(pl_module, batch.images)
        elif trainer.is_global_zero:
            self._put_hooks_on()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Take the hooks off."""
        self._take_hooks_off()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure gradients and scales, which the step is about to change."""
        if self._step is None or not trainer.is_global_zero:
            return
        assert self._parts is not None
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        unscales_itself = getattr(optimizer, "_step_supports_amp_scaling", False)  # then Lightning has not done so
        loss_scale = scaler.get_scale() if scaler is not None and unscales_itself else 1.0
        for block, length in _gradient_norms(pl_module).items():
            self._measured["gradient_norm", block] = length / loss_scale
        for name, weight in self._parts.tap_scales().items():
            w = weight.float()
            self._measured["scale_mean", name], self._measured["scale_std", name] = w.mean(), w.std(correction=0)
            self._measured["scale_min", name], self._measured["scale_max", name] = w.min(), w.max()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what was measured, once the optimizer has stepped."""
        self._take_hooks_off()
        step, measured = self._step, self._measured
        if step is None or trainer.global_step == step or not measured or not trainer.is_global_zero:
            return
        self._step, self._measured = None, {}
        values = torch.stack([value.float() for value in measured.values()]).tolist()
        numbers = sorted(zip(measured, values, strict=True), key=lambda row: row[0][0])  # by statistic
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows((step, *key, f"{value:.6g}") for key, value in numbers)
        scalars = {f"diagnostics/{statistic}/{name}": value for (statistic, name), value in numbers}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=step)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._take_hooks_off()

    def _put_hooks_on(self) -> None:
        assert self._parts is not None
        for name, norm in self._parts.tap_norms.items():
            self._handles.append(norm.register_forward_pre_hook(_reader(self._before_tap_norm, name)))
            self._handles.append(norm.register_forward_hook(_reader(self._after_tap_norm, name)))
        for name, relu in self._parts.activations.items():
            self._handles.append(relu.register_forward_hook(_reader(self._after_relu, name)))

    def _take_hooks_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before_tap_norm(self, name: str, x: Tensor) -> None:
        lengths = position_lengths(x)
        self._measured["length_before", name] = lengths.mean()
        self._measured["rms_before", name] = root_mean_square(lengths, x.shape[1])
        self._measured["zero_positions", name] = zero_positions(x)
        if ("dead_channels", name) not in self._measured:  # a tap of our own backbones is a layer, measured already
            self._measured["dead_channels", name] = dead_channels(x)

    def _after_tap_norm(self, name: str, x: Tensor) -> None:
        lengths = position_lengths(x)
        self._measured["length_after", name] = lengths.mean()
        self._measured["rms_after", name] = root_mean_square(lengths, x.shape[1])

    def _after_relu(self, name: str, x: Tensor) -> None:
        self._measured["dead_channels", name] = dead_channels(x)

    def _measure_by_another_pass(self, pl_module: pl.LightningModule, images: Tensor) -> None:
        with untouched(pl_module), torch.no_grad():
            try:
                self._put_hooks_on()
                pl_module(images)
            finally:
                self._take_hooks_off()


def _reader(measure: Any, name: str) -> Any:
    """A hook, before or after a module, that hands its map on and changes nothing."""

    @torch.no_grad()
    def read(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | None = None) -> None:
        measure(name, (args[0] if output is None else output).detach())

    return read


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
