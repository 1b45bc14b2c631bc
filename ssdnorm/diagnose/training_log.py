"""Log taps, scales and gradients during training to ``diagnostics.csv``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ssdnorm.diagnose.feature_maps import is_dead, position_lengths, root_mean_square, zero_positions
from ssdnorm.diagnose.layers import SSDParts, block_of, find_ssd_parts
from ssdnorm.diagnose.model_state import preserve_state
from ssdnorm.files import WITHOUT_ROWS, append_rows, damage_named, whole_rows, write_rows

LENGTH_QUANTILES = {"length_p05": 0.05, "length_median": 0.5, "length_p95": 0.95}
_COLUMNS = ["step", "statistic", "name", "value"]
_Key = tuple[str, str]  # statistic, name


class DiagnosticsFile(pl.Callback):
    """Write ``diagnostics.csv``, one number per row; log the same numbers, and figures, to the run's loggers.

    Measures steps 0, ``every``, 2 · ``every``, … and the last, on the batch that the step trains on (with several
    processes, on that of the first). ``step`` counts the optimizer steps before the measurement.

    The statistics are mean, std, rms, length_mean, length_p05, length_median, length_p95, zero_positions and
    dead_channels of a layer's map after its ReLU; length_before, length_after, rms_before and rms_after of a tap around
    its norm slot; scale_mean, scale_std, scale_min and scale_max of a tap norm's weights, if it has one per channel;
    gradient_norm of conv1 … conv5, fc6, fc7, conv8 …, head and tap_norms, before clipping and without loss scaling.
    Lengths are L2 lengths over the channels at each position. A tap that is not such a layer counts as one, measured
    before its norm slot. Loggers that take figures, such as TensorBoard, also get the lengths by layer
    (``diagnostics/lengths``) and per tap histograms of the finite lengths (``lengths_before``, ``lengths_after``).

    At a measured step, hooks are active from the start of the batch to the backward pass; they change nothing, and all
    numbers are copied to the host at once. Other steps have no hooks.

    The model needs a module with an ``nn.ModuleDict`` called ``tap_norms``, and optionally ``backbone`` and ``extras``
    whose children have ``conv`` and ``relu``; parameters are grouped by these names and ``head``.

    torch.compile does not run hooks: if any module is compiled, the maps are measured in one more forward pass of
    ``pl_module(batch.images)`` in eager mode. Batch norm's statistics and the random state are restored afterwards, so
    training does not change; the dropout masks differ from those of the step.

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
        self._compiled = False
        self._step: int | None = None
        self._maps: _TrainingMaps | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the modules; start the file, or truncate it to the step of the checkpoint."""
        self._parts = find_ssd_parts(pl_module)
        if self._parts is None:
            raise ValueError(
                f"DiagnosticsFile: no taps found in {type(pl_module).__name__}: it needs a module with an "
                "nn.ModuleDict called tap_norms, as SSDFeatures has"
            )
        self._compiled = any(m._compiled_call_impl is not None or hasattr(m, "_orig_mod") for m in pl_module.modules())
        if not trainer.is_global_zero:
            return
        with damage_named(self.path, WITHOUT_ROWS):
            rows = [
                {name: row[name] for name in _COLUMNS}
                for row in whole_rows(self.path)
                if int(row["step"]) < trainer.global_step
            ]
        write_rows(self.path, _COLUMNS, rows)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
        """Add the hooks if this step is measured."""
        step = trainer.global_step
        self._step = step if step % self.every == 0 or step == trainer.max_steps - 1 else None
        if self._step is None:
            return
        assert self._parts is not None
        self._maps = _TrainingMaps(self._parts)
        if self._compiled:  # in all processes, because synchronised batch norms communicate
            with trainer.precision_plugin.forward_context(), preserve_state(pl_module), torch.no_grad():
                try:
                    self._maps.add_hooks()
                    pl_module(batch.images)
                finally:
                    self._remove_hooks()
        elif trainer.is_global_zero:
            self._maps.add_hooks()

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Remove the hooks."""
        self._remove_hooks()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Measure gradients and scales before the step changes them."""
        if self._step is None or self._maps is None or not trainer.is_global_zero:
            return
        numbers = self._maps.numbers
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        # a fused optimizer unscales the gradients itself; for others Lightning has done so before
        unscales_itself = getattr(optimizer, "_step_supports_amp_scaling", False)
        loss_scale = scaler.get_scale() if scaler is not None and unscales_itself else 1.0
        for block, length in _gradient_norms(pl_module).items():
            numbers["gradient_norm", block] = length / loss_scale
        for name, weight in self._maps.parts.tap_scales().items():
            w = weight.float()
            numbers["scale_mean", name], numbers["scale_std", name] = w.mean(), w.std(correction=0)
            numbers["scale_min", name], numbers["scale_max", name] = w.min(), w.max()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Write the measurement after the optimizer step."""
        self._remove_hooks()
        step, maps = self._step, self._maps
        if step is None or maps is None or not maps.numbers or not trainer.is_global_zero:
            return
        if trainer.global_step == step:  # gradients still accumulate
            return
        self._step = self._maps = None
        numbers, tap_lengths = _to_host(maps)
        append_rows(self.path, [(step, *key, f"{value:.6g}") for key, value in numbers.items()])
        for logger in trainer.loggers:
            logger.log_metrics({_tag(key): value for key, value in numbers.items()}, step=step)
            _draw(logger, numbers, tap_lengths, step)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        if self._maps is not None:
            self._maps.remove_hooks()


class _TrainingMaps:
    """Measure the outputs of an SSD's ReLUs and tap norms with hooks, without synchronising with the device.

    Attributes:
        numbers: (statistic, layer or tap) → scalar, see ``DiagnosticsFile``.
        tap_lengths: (lengths_before or lengths_after, tap) → L2 length over the channels of every position, ``(n,)``.
    """

    def __init__(self, parts: SSDParts) -> None:
        self.parts = parts
        self.numbers: dict[_Key, Tensor] = {}
        self.tap_lengths: dict[_Key, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def add_hooks(self) -> None:
        for name, relu in self.parts.activations.items():
            self._handles.append(relu.register_forward_hook(lambda _, args, y, name=name: self._read_layer(name, y)))
        for name, norm in self.parts.tap_norms.items():
            self._handles += [
                norm.register_forward_pre_hook(lambda _, args, name=name: self._read_tap("before", name, args[0])),
                norm.register_forward_hook(lambda _, args, y, name=name: self._read_tap("after", name, y)),
            ]

    def remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def _read_layer(self, name: str, x: Tensor) -> None:
        lengths, mean = position_lengths(x), x.mean(dtype=torch.float32)
        rms = root_mean_square(lengths, x.shape[1])
        ascending = lengths.flatten().sort().values  # torch.quantile refuses maps of more than 2^24 positions
        values = {
            "mean": mean,
            "std": (rms.square() - mean.square()).clamp_min(0).sqrt(),
            "rms": rms,
            "length_mean": lengths.mean(),
            **{key: ascending[int(q * (len(ascending) - 1))] for key, q in LENGTH_QUANTILES.items()},
            "zero_positions": zero_positions(x),
            "dead_channels": is_dead(x).float().mean(),
        }
        self.numbers.update({(statistic, name): value for statistic, value in values.items()})

    @torch.no_grad()
    def _read_tap(self, side: str, name: str, x: Tensor) -> None:
        if side == "before" and ("rms", name) not in self.numbers:  # the taps of VGG16 are layers, measured already
            self._read_layer(name, x)
        lengths = position_lengths(x)
        self.numbers[f"length_{side}", name] = lengths.mean()
        self.numbers[f"rms_{side}", name] = root_mean_square(lengths, x.shape[1])
        self.tap_lengths[f"lengths_{side}", name] = lengths.flatten()


def _to_host(maps: _TrainingMaps) -> tuple[dict[_Key, float], dict[_Key, Tensor]]:
    """Copy the numbers, sorted by statistic, and the lengths at the taps to the host in one transfer."""
    on_device = [torch.stack([value.float() for value in maps.numbers.values()]), *maps.tap_lengths.values()]
    numbers, *lengths = torch.cat([x.float() for x in on_device]).cpu().split([len(x) for x in on_device])
    by_key = sorted(zip(maps.numbers, numbers.tolist(), strict=True), key=lambda row: row[0][0])
    return dict(by_key), dict(zip(maps.tap_lengths, lengths, strict=True))


def _draw(logger: Logger, numbers: dict[_Key, float], tap_lengths: dict[_Key, Tensor], step: int) -> None:
    """Log the lengths as histograms and a figure, where the logger supports them."""
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_histogram"):
        for key, lengths in tap_lengths.items():
            finite = lengths[lengths.isfinite()]
            if len(finite):
                experiment.add_histogram(_tag(key), finite, step)
    if hasattr(experiment, "add_figure"):
        from ssdnorm.diagnose.figures import plot_length_quantiles  # loads matplotlib

        layers = [name for statistic, name in numbers if statistic == "rms"]
        quantiles = {name: {q: numbers[key, name] for key, q in LENGTH_QUANTILES.items()} for name in layers}
        experiment.add_figure("diagnostics/lengths", plot_length_quantiles(quantiles), step, close=False)


def _tag(key: _Key) -> str:
    return "diagnostics/" + "/".join(key)


@torch.no_grad()
def _gradient_norms(module: nn.Module) -> dict[str, Tensor]:
    lengths: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        block = block_of(name)
        if block is not None and parameter.grad is not None:
            lengths.setdefault(block, []).append(torch.linalg.vector_norm(parameter.grad.float()))
    return {block: torch.linalg.vector_norm(torch.stack(parts)) for block, parts in lengths.items()}
