"""This file is about the training module: one step, its checks, and the evaluation loop, for Lightning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ssdnorm.engine.evaluation import EvaluationResult, Evaluator
from ssdnorm.structures import Batch, Detections


@dataclass(frozen=True)
class EvaluationSet:
    """Images to evaluate on.

    Args:
        name: ``test`` or ``validation``, in logs.
        evaluator: detections by place in the data set → numbers.
        make_loader: ``rank, world_size`` → batches, every image once.
    """

    name: str
    evaluator: Evaluator
    make_loader: Callable[..., Iterable[Batch]]


class NonFiniteLossError(ArithmeticError):
    """The loss is no number any more; the message tells the step, the parts and the images."""


class TrainingModule(pl.LightningModule):
    """Trains anything with the trio's shape.

    That is: model → raw output; loss(output, boxes, labels) → parts; post_process(output, sizes) → detections.
    Dropout is seeded by (seed, rank, step), so that a resumed run goes on as the uninterrupted one would. Losses stay
    on the device and are read every ``log_every`` steps (each step on a CPU, where reading costs nothing), before a
    checkpoint is written and at the end: a loss that is not finite is found then at the latest.

    Args:
        model: images ``(B, 3, S, S)`` → raw output.
        loss: raw output, boxes, labels → parts of the loss.
        post_process: raw output, sizes → detections.
        make_optimizer: parameters' owner → optimizer.
        lr_factor: step → factor on the learning rate.
        test: what is evaluated at the end.
        validation: what is evaluated until then; None takes the test images.
        image_names: of the training set, by place, for messages.
        make_train_loader: ``rank, world_size, start_batch`` → batches of :class:`Batch`; None for evaluation alone.
        seed: of dropout.
        log_every: steps between readings of the losses, which are means over these steps.
        compile_model: run the model through torch.compile while training.
        recompute_statistics: ``model, batches, num_images`` → rows; puts population statistics over so many images of
            this process in place of batch norm's running ones; None where there are none.
        make_population_loader: ``rank, world_size`` → the batches that they are recomputed over.
        population_images: how many, of all processes together.
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
        make_train_loader: Callable[..., Iterable[Batch]] | None,
        seed: int,
        log_every: int = 20,
        compile_model: bool = False,
        recompute_statistics: Callable[[nn.Module, Iterable[Tensor], int], Sequence[Any]] | None = None,
        make_population_loader: Callable[..., Iterable[Batch]] | None = None,
        population_images: int = 0,
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
        self.log_every = log_every
        self.compile_model = compile_model
        self.recompute_statistics = recompute_statistics
        self.make_population_loader = make_population_loader
        self.population_images = population_images
        self.population_statistics: Sequence[Any] | None = None
        self.last_evaluation: tuple[int, EvaluationResult] | None = None
        self.readings: dict[str, float] = {}
        self._found: dict[int, Detections] = {}
        self._recompute = False
        self._unread: list[tuple[int, dict[str, Tensor], Tensor]] = []
        self._checked: list[dict[str, float]] = []  # parts of the loss of each step since the last reading
        self._since = time.perf_counter()
        self._images = 0

    def forward(self, images: Tensor) -> Any:
        """Raw output of a batch."""
        return self.model(images.contiguous(memory_format=torch.channels_last))

    def setup(self, stage: str) -> None:
        """Bring the weights into the faster memory format, and compile if asked to."""
        self.model.to(memory_format=torch.channels_last)
        if self.compile_model and stage == "fit":
            self.model.compile()

    def on_train_start(self) -> None:
        """Time only what is trained from here on."""
        self._since, self._images = time.perf_counter(), 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the loss's parts."""
        step = self.global_step
        torch.manual_seed((self.seed * 1_000_003 + step) * 4099 + self.global_rank)
        parts = self.loss(self(batch.images), batch.boxes, batch.labels)
        self._unread.append((step, {name: part.detach() for name, part in parts.items()}, batch.indices))
        self._images += len(batch) * self.trainer.world_size
        due = (step + 1) % self.log_every == 0
        if due or batch.images.device.type == "cpu":
            self._check_losses()
        if due:
            self._publish_readings()
        return torch.stack(list(parts.values())).sum()

    def _check_losses(self) -> None:
        """Bring unread losses to the host and check them."""
        if not self._unread:
            return
        names = list(self._unread[0][1])
        values = torch.stack([torch.stack(list(parts.values())) for _, parts, _ in self._unread]).tolist()
        for (step, _, indices), row in zip(self._unread, values, strict=True):
            if not all(abs(value) < float("inf") for value in row):
                parts = ", ".join(f"{name} {value}" for name, value in zip(names, row, strict=True))
                images = ", ".join(self.image_names(i) for i in indices.tolist())
                raise NonFiniteLossError(
                    f"step {step}: the loss is not finite: {parts}; images: {images}. A lower optimizer.lr, a longer "
                    "optimizer.warmup_steps or training.clip_grad_norm may help"
                )
            self._checked.append(dict(zip(names, row, strict=True)))
        self._unread.clear()

    def _publish_readings(self) -> None:
        """Means over the steps since the last time."""
        now = time.perf_counter()
        mean = {name: sum(row[name] for row in self._checked) / len(self._checked) for name in self._checked[0]}
        images_per_second = self._images / max(now - self._since, 1e-9)
        self.readings = {"loss": sum(mean.values()), **mean, "images_per_second": images_per_second}
        self._since, self._images = now, 0
        self._checked.clear()
        for logger in self.trainer.loggers:  # Lightning's self.log would bring them to the host again at every step
            logger.log_metrics({f"train/{name}": value for name, value in self.readings.items()}, step=self.global_step)

    def on_train_end(self) -> None:
        """Check what has not been read."""
        self._check_losses()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """No weights behind a loss that is not finite; and on how many devices the run is."""
        self._check_losses()
        checkpoint["world_size"] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another batch than before.

        Raises:
            ValueError: if the run was on more or fewer devices.
        """
        now = self.trainer.world_size
        before = checkpoint.get("world_size", now)  # older runs do not say
        if before != now:
            raise ValueError(
                f"--resume: the run was on {before} devices and is now on {now}, which changes its batch; set "
                "runtime.devices and runtime.num_nodes as they were"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Detections of a batch, kept by their place in the data set."""
        detections = self.post_process(self(batch.images), batch.sizes)
        counts = [len(found["scores"]) for found in detections]
        boxes, scores, labels = (  # three copies to the host for the whole batch
            torch.cat([found[key] for found in detections]).cpu().split(counts) for key in ("boxes", "scores", "labels")
        )
        for place, index in enumerate(batch.indices.tolist()):
            self._found[index] = Detections(boxes=boxes[place], scores=scores[place], labels=labels[place])

    def on_validation_epoch_start(self) -> None:
        """Forget earlier detections; recompute batch norm's statistics if that is what is to be evaluated."""
        self._found = {}
        if self._recompute:
            assert self.recompute_statistics is not None
            assert self.make_population_loader is not None
            world_size = self.trainer.world_size
            images = self._images_of(self.make_population_loader(rank=self.global_rank, world_size=world_size))
            num_images = -(-self.population_images // world_size)
            with self.trainer.precision_plugin.forward_context():
                self.population_statistics = self.recompute_statistics(self.model, images, num_images)

    def _images_of(self, loader: Iterable[Batch]) -> Iterator[Tensor]:
        for batch in loader:
            yield batch.images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)

    def evaluate_with_population_stats(
        self, trainer: pl.Trainer, *, save_weights: Callable[[], None] = lambda: None
    ) -> EvaluationResult:
        """Evaluate with population statistics in place of the running ones, which come back afterwards.

        ``population_statistics`` then holds a row for each layer. Works in all processes together.

        Args:
            trainer: what the training ran on.
            save_weights: called while the population statistics are in place.
        """
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        last, self._recompute = self.last_evaluation, True
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        trainer.callbacks = [c for c in callbacks if isinstance(c, ProgressBar)]  # type: ignore[attr-defined]
        try:
            trainer.validate(self, verbose=False)
            assert self.last_evaluation is not None
            save_weights()
            return self.last_evaluation[1]
        finally:
            self._recompute, self.last_evaluation = False, last
            trainer.callbacks = callbacks  # type: ignore[attr-defined]
            with torch.no_grad():
                for name, buffer in self.model.named_buffers():
                    buffer.copy_(before[name])

    def evaluate_on(self, trainer: pl.Trainer, images: EvaluationSet) -> EvaluationResult:
        """Evaluate on ``images``, now and from now on; an evaluation of them at this step is not repeated."""
        done = self.last_evaluation is not None and self.last_evaluation[0] == self.global_step
        if not done or images is not self.evaluated_on:
            self.evaluated_on = images
            trainer.validate(self, verbose=False)
        assert self.last_evaluation is not None
        return self.last_evaluation[1]

    def on_validation_epoch_end(self) -> None:
        """Gather the detections of all processes and evaluate them, each image once."""
        if self.trainer.sanity_checking:
            return
        parts: list[dict[int, Detections] | None] = [None] * self.trainer.world_size
        if self.trainer.world_size > 1:
            torch.distributed.all_gather_object(parts, self._found)
        else:
            parts = [self._found]
        found = {index: detections for part in parts if part for index, detections in part.items()}
        result = self.evaluated_on.evaluator(found)
        self.last_evaluation = (self.global_step, result)
        if not self._recompute:
            on = self.evaluated_on.name
            self.log_dict({f"{on}/{name}": value for name, value in result.metrics.items()}, rank_zero_only=True)
        self._since, self._images = time.perf_counter(), 0

    def train_dataloader(self) -> Any:
        """Batches from the step on that the run has come to."""
        assert self.make_train_loader is not None, "made for evaluation alone"
        return self.make_train_loader(
            rank=self.global_rank, world_size=self.trainer.world_size, start_batch=self.global_step
        )

    def val_dataloader(self) -> Any:
        """Batches of this process."""
        return self.evaluated_on.make_loader(rank=self.global_rank, world_size=self.trainer.world_size)

    def configure_optimizers(self) -> Any:
        """The optimizer with its rate set at every step."""
        optimizer = self.make_optimizer(self.model)
        schedule = LambdaLR(optimizer, self.lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copy without waiting."""
        return batch.to(device, non_blocking=True)
