"""The Lightning module of a training: checked losses, and evaluation during training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssdnorm.engine.evaluation import EvaluationResult, by_place, evaluate_detections
from ssdnorm.structures import Batch, Detections
from ssdnorm.tables import GroundTruth


@dataclass(frozen=True)
class EvaluationSet:
    """Images to evaluate on."""

    name: str  # test or validation, in logs
    truth: GroundTruth
    make_loader: Callable[..., Iterable[Batch]]  # rank, world_size -> batches, every image once


@dataclass(frozen=True)
class PopulationImages:
    """Images over which batch norm's statistics are recomputed after training."""

    recompute: Callable[[nn.Module, Iterable[Tensor], int], None]  # model, batches, num_images
    make_loader: Callable[..., Iterable[Batch]]  # rank, world_size -> batches
    num_images: int  # over all processes


class NonFiniteLossError(ArithmeticError):
    """The loss or the weights became NaN or infinite; the message names the step and which they are."""


class TrainingModule(pl.LightningModule):
    """Train a model with a loss, and evaluate it with a post-processing.

    Dropout is seeded by (seed, rank, batch), so a resumed run continues as the uninterrupted one would. Losses stay on
    the device and are read every ``log_every`` steps (on a CPU at every step, where reading is free), before a
    checkpoint is written, and at the end; a loss that is not finite is detected then.

    Args:
        model: images ``(B, 3, H, W)`` → raw output.
        loss: raw output, boxes, labels → parts of the loss.
        post_process: raw output, sizes → detections.
        make_optimizer: model → optimizer.
        lr_factor: step → factor on the learning rate.
        test: evaluated at the end.
        validation: evaluated during training and at the end; None evaluates ``test`` instead.
        image_names: place in the training set → name, for messages.
        make_train_loader: ``rank, world_size, start_batch`` → batches of :class:`Batch`.
        accumulate: batches per step, as the trainer has it.
        log_every: steps between readings of the losses, which are means over these steps.
        compile_model: with torch.compile, for training.
        batch_may_change: whether a run may be resumed on another number of devices.

    Attributes:
        device_changes: step, from and to, for each time that it was.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        post_process: nn.Module,
        *,
        make_optimizer: Callable[[nn.Module], Optimizer],
        lr_factor: Callable[[int], float],
        test: EvaluationSet,
        validation: EvaluationSet | None = None,
        image_names: Callable[[int], str],
        make_train_loader: Callable[..., Iterable[Batch]],
        seed: int,
        accumulate: int = 1,
        log_every: int = 20,
        compile_model: bool = False,
        population: PopulationImages | None = None,
        batch_may_change: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.post_process = post_process
        self.make_optimizer = make_optimizer
        self.lr_factor = lr_factor
        self.test = test
        self.validation = validation
        self.evaluated_on = validation or test
        self.image_names = image_names
        self.make_train_loader = make_train_loader
        self.seed = seed
        self.accumulate = accumulate
        self.log_every = log_every
        self.compile_model = compile_model
        self.population = population
        self.batch_may_change = batch_may_change
        self.device_changes: list[dict[str, int]] = []
        self.last_evaluation: tuple[int, EvaluationResult] | None = None
        self.evaluation_losses: dict[str, float] = {}  # of the last evaluation
        self.readings: dict[str, float] = {}
        self._found: dict[int, Detections] = {}
        self._losses: list[dict[str, Tensor]] = []  # of the batches evaluated, times their images
        self._recompute = False
        self._unread: list[tuple[int, dict[str, Tensor], Tensor]] = []
        self._checked: list[dict[str, float]] = []  # parts of the loss of each step since the last reading
        self._since = time.perf_counter()
        self._images = 0

    def forward(self, images: Tensor) -> Any:
        return self.model(images.contiguous(memory_format=torch.channels_last))

    def setup(self, stage: str) -> None:
        """Convert the weights to channels-last memory, which is faster, and compile the model if asked to."""
        self.model.to(memory_format=torch.channels_last)
        if self.compile_model and stage == "fit":
            self.model.compile()

    def on_train_start(self) -> None:
        self._since, self._images = time.perf_counter(), 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the sum of the loss's parts."""
        step, place = self.global_step, batch_idx % self.accumulate
        batch_of_run = step * self.accumulate + place
        torch.manual_seed((self.seed * 1_000_003 + batch_of_run) * 4099 + self.global_rank)
        parts = self.loss(self(batch.images), batch.boxes, batch.labels)
        self._unread.append((step, {name: part.detach() for name, part in parts.items()}, batch.indices))
        self._images += len(batch) * self.trainer.world_size
        due = (step + 1) % self.log_every == 0 and place == self.accumulate - 1
        if due or batch.images.device.type == "cpu":
            self._check_losses()
        if due:
            self._publish_readings()
        return torch.stack(list(parts.values())).sum()

    def _check_losses(self) -> None:
        """Copy unread losses to the host and check them."""
        if not self._unread:
            return
        names = list(self._unread[0][1])
        values = torch.stack([torch.stack(list(parts.values())) for _, parts, _ in self._unread]).tolist()
        for (step, _, indices), row in zip(self._unread, values, strict=True):
            if not all(abs(value) < float("inf") for value in row):
                parts = ", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True))
                images = ", ".join(self.image_names(i) for i in indices.tolist())
                raise NonFiniteLossError(
                    f"step {step}: the loss is not finite: {parts}; images: {images}. A lower learning rate, a longer "
                    "warmup or gradient clipping may help"
                )
            self._checked.append(dict(zip(names, row, strict=True)))
        self._unread.clear()

    def _publish_readings(self) -> None:
        """Log the means over the steps since the last reading."""
        now = time.perf_counter()
        mean = {name: sum(row[name] for row in self._checked) / len(self._checked) for name in self._checked[0]}
        images_per_second = self._images / max(now - self._since, 1e-9)
        self.readings = {"loss": sum(mean.values()), **mean, "images_per_second": images_per_second}
        self._since, self._images = now, 0
        self._checked.clear()
        for logger in self.trainer.loggers:  # Lightning's self.log would copy them to the host at every step
            logger.log_metrics({f"train/{name}": value for name, value in self.readings.items()}, step=self.global_step)

    def on_train_end(self) -> None:
        self._check_losses()
        self._check_weights()

    def _check_weights(self) -> None:
        """A step may ruin the weights, or statistics of batch norm, after a loss that was finite."""
        tensors = {name: t for name, t in self.model.state_dict().items() if t.is_floating_point()}
        sound = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).tolist()
        if bad := [name for name, is_sound in zip(tensors, sound, strict=True) if not is_sound]:
            raise NonFiniteLossError(
                f"step {self.global_step}: {len(bad)} of {len(tensors)} tensors of weights and statistics are not "
                f"finite; the first: {bad[0]}. A lower learning rate, a longer warmup or gradient clipping may help"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save no weights that are not finite, or after such a loss; save losses to be read, and numbers of devices."""
        self._check_losses()
        self._check_weights()
        checkpoint["unread_losses"] = [*self._checked]  # of a checkpoint between two readings
        checkpoint["world_size"] = self.trainer.world_size
        checkpoint["device_changes"] = self.device_changes

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume with another number of devices, which changes the batch size, unless that may change."""
        now = self.trainer.world_size
        before = checkpoint.get("world_size", now)  # missing in older checkpoints
        self._checked[:] = checkpoint.get("unread_losses", [])
        self.device_changes[:] = checkpoint.get("device_changes", [])
        if before == now:
            return
        if not self.batch_may_change:
            raise ValueError(
                f"resume: the run was on {before} devices and is now on {now}, which changes its batch size; use "
                "as many devices as before, or allow it with runtime.batch_may_change"
            )
        self.device_changes.append({"step": checkpoint["global_step"], "from": before, "to": now})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Detect on a batch, and keep the detections by place in the data set, and the parts of the loss."""
        output = self(batch.images)
        parts = self.loss(output, batch.boxes, batch.labels)
        self._losses.append({name: part * len(batch) for name, part in parts.items()})
        self._found |= by_place(self.post_process(output, batch.sizes), batch.indices.tolist())

    def on_validation_epoch_start(self) -> None:
        """Drop earlier detections and losses; recompute batch norm's statistics if those are to be evaluated."""
        self._found, self._losses = {}, []
        if self._recompute:
            assert self.population is not None
            world_size = self.trainer.world_size
            images = (
                batch.images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
                for batch in self.population.make_loader(rank=self.global_rank, world_size=world_size)
            )
            num_images = -(-self.population.num_images // world_size)
            with self.trainer.precision_plugin.forward_context():
                self.population.recompute(self.model, images, num_images)

    def evaluate_with_population_stats(
        self, trainer: pl.Trainer, *, save_weights: Callable[[EvaluationResult], None]
    ) -> EvaluationResult:
        """Evaluate with population statistics, which ``save_weights`` finds in place; the running ones are restored."""
        with self._put_back(trainer):
            self._recompute = True
            result = self.evaluate_on(trainer, self.evaluated_on)
            save_weights(result)
            return result

    def evaluate_on(self, trainer: pl.Trainer, images: EvaluationSet) -> EvaluationResult:
        """Evaluate on ``images`` from now on; reuses an evaluation of them at this step."""
        done = self.last_evaluation is not None and self.last_evaluation[0] == self.global_step
        if not done or images is not self.evaluated_on:
            self.evaluated_on = images
            trainer.validate(self, verbose=False)
        assert self.last_evaluation is not None
        return self.last_evaluation[1]

    def evaluate_weights(self, trainer: pl.Trainer, state: Mapping[str, Tensor]) -> EvaluationResult:
        """Evaluate other weights on the test images; the module's own are restored afterwards."""
        with self._put_back(trainer):
            self.model.load_state_dict(state)
            return self.evaluate_on(trainer, self.test)

    @contextmanager
    def _put_back(self, trainer: pl.Trainer) -> Iterator[None]:
        """Restore weights, statistics, the last evaluation and the callbacks, of which only the bar acts meanwhile."""
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        last, self.last_evaluation = self.last_evaluation, None
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [c for c in callbacks if isinstance(c, ProgressBar)]  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self.model.load_state_dict(own)
            self._recompute, self.last_evaluation = False, last
            trainer.callbacks = callbacks  # type: ignore[attr-defined]

    def on_validation_epoch_end(self) -> None:
        """Gather the detections and losses of all processes and evaluate them."""
        sums = {name: float(sum(row[name] for row in self._losses)) for name in self._losses[0]}
        parts = [(self._found, sums)] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(parts, parts[0])
        found = {index: found for detections, _ in parts for index, found in detections.items()}
        result = evaluate_detections(self.evaluated_on.truth, found)
        mean = {name: sum(losses[name] for _, losses in parts) / len(found) for name in sums}
        self.evaluation_losses = {"loss": sum(mean.values()), **mean}
        self.last_evaluation = (self.global_step, result)
        if not self._recompute:
            values = {**result.metrics, **self.evaluation_losses}
            on = self.evaluated_on.name
            for logger in self.trainer.loggers:  # Lightning's self.log would write them after the step's checkpoint
                logger.log_metrics({f"{on}/{name}": value for name, value in values.items()}, step=self.global_step)
        self._since, self._images = time.perf_counter(), 0

    def train_dataloader(self) -> Any:
        """Batches from the current step on."""
        return self.make_train_loader(
            rank=self.global_rank, world_size=self.trainer.world_size, start_batch=self.global_step * self.accumulate
        )

    def val_dataloader(self) -> Any:
        return self.evaluated_on.make_loader(rank=self.global_rank, world_size=self.trainer.world_size)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.model)
        schedule = LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)
