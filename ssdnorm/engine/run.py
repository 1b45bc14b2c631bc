"""Train a model into a run folder: weights, metrics, detections, logs, and the record of the run."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from safetensors.torch import load_file
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssdnorm.engine.best import BestWeights
from ssdnorm.engine.callbacks import MetricsFile
from ssdnorm.engine.checkpoint_files import PREVIOUS, CheckpointFiles, LastCheckpoint, find_checkpoint
from ssdnorm.engine.evaluation import EvaluationResult, quiet_lightning
from ssdnorm.engine.loggers import finished, make_loggers
from ssdnorm.engine.module import NonFiniteLossError, TrainingModule
from ssdnorm.engine.nodes import cluster_environments, is_first_process
from ssdnorm.engine.progress import make_progress
from ssdnorm.files import FAILURE_FILE, write_json
from ssdnorm.messages import shown
from ssdnorm.metrics.thresholds import operating_points
from ssdnorm.provenance import provenance

log = logging.getLogger("ssdnorm.engine")


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the training loop; ``precision``, devices, accelerator and num_nodes as for Lightning's Trainer."""

    max_steps: int  # of the optimizer
    batch_size: int  # images per batch and device
    accumulate: int  # batches per step
    images_per_epoch: int  # of the training set
    ema_decay: float | None  # of the average of the weights; None for no average
    clip_grad_norm: float | None  # largest norm of all gradients together
    eval_every: int | None  # steps; None evaluates at the end only
    checkpoint_every: int  # steps
    best: str | None  # metric on the validation images by which best.safetensors is kept
    patience: int | None  # evaluations without a better one after which training stops
    precision: str
    devices: int | str
    accelerator: str
    num_nodes: int
    num_processes: int  # of all machines
    timeout: int  # seconds without an answer of another process
    loggers: Sequence[str | Mapping[str, Any]]  # specs, see the config
    shown: Mapping[str, Any]  # of the config, nested, by trackers


def train(
    module: TrainingModule,
    settings: LoopSettings,
    output: Path,
    *,
    resume: bool,
    save_weights: Callable[[Path, EvaluationResult], None],
    save_pictures: Callable[[EvaluationResult], None] | None = None,
    record: Mapping[str, Any],
    callbacks: Sequence[pl.Callback] = (),
) -> EvaluationResult:
    """Train to ``max_steps``, evaluate, and write weights, detections and ``result.json`` to the run folder ``output``.

    ``result.json`` comes last: a run that has it has all its files.

    Args:
        resume: continue from ``checkpoints/last.ckpt`` if it exists, or from the one before if that is damaged.
        save_weights: writes the trained model to a path, with what its evaluation says about scores to ask for.
        save_pictures: draws the final detections.
        record: added to ``result.json``.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite; also written to ``failure.json`` in the run folder.
        ValueError: the checkpoints are damaged, or from another number of devices.
    """
    origin = provenance()  # before training: the commit may change meanwhile
    checkpoints = output / "checkpoints"
    checkpoint = find_checkpoint(checkpoints) if resume else None
    trainer = make_trainer(settings, output)
    world_size = trainer.world_size
    epochs_per_step = settings.batch_size * settings.accumulate * world_size / settings.images_per_epoch
    metrics_file = MetricsFile(output / "metrics.csv", epochs_per_step=epochs_per_step)
    best = None
    if settings.best is not None:
        save_best = partial(save_weights, checkpoints / "best.safetensors")
        best = BestWeights(metrics_file.path, metric=settings.best, save=save_best, patience=settings.patience)
    # before the averaging of weights, which takes its averages out of the model when an evaluation ends
    trainer.callbacks[:0] = [metrics_file, *([best] if best else []), *callbacks]  # type: ignore[attr-defined]

    def save(name: str, evaluation: EvaluationResult) -> None:
        if trainer.is_global_zero:
            save_weights(checkpoints / name, evaluation)

    further: dict[str, Any] = {}
    with quiet_lightning(), finished(trainer.loggers):
        try:
            trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WeightAveraging):  # fit skips this when resumed after the last step
                    callback.on_train_end(trainer, module)
        except SystemExit as error:  # Lightning's translation of Ctrl-C
            raise KeyboardInterrupt from error
        except NonFiniteLossError as error:
            if trainer.is_global_zero:
                write_json(
                    output / FAILURE_FILE,
                    {"status": "diverged", "reason": str(error), "step": trainer.global_step, **record, **origin},
                )
            raise
        losses = further["losses"] = {}
        chosen_on = None
        if module.validation is not None:
            chosen_on = module.evaluate_on(trainer, module.validation)
            further["metrics_validation"] = chosen_on.metrics
            losses["validation"] = module.evaluation_losses
        result = module.evaluate_on(trainer, module.test)
        losses["test"] = module.evaluation_losses
        save("model.safetensors", chosen_on or result)
        coco = (chosen_on or result).coco
        if trainer.is_global_zero and coco is not None:
            where = "test" if chosen_on is None else "validation"
            further["operating_points"] = {"chosen_on": where, **operating_points(coco)}
        if best is not None:
            with_best = module.evaluate_weights(trainer, load_file(checkpoints / "best.safetensors"))
            further["best"] = {**best.record(), "metrics": with_best.metrics} if trainer.is_global_zero else None
        if module.population is not None:
            with_population = module.evaluate_with_population_stats(
                trainer, save_weights=partial(save, "model_population.safetensors")
            )
            further["metrics_population"] = with_population.metrics
            further["population_images"] = module.population.num_images
    if trainer.is_global_zero:
        write_json(output / "detections.json", result.detections)
        if save_pictures is not None:
            save_pictures(result)
        (checkpoints / PREVIOUS).unlink(missing_ok=True)
        write_json(
            output / "result.json",
            {
                "metrics": result.metrics,
                "per_class": result.per_class,
                **further,
                **record,
                "steps": trainer.global_step,
                "stopped_early": trainer.global_step < settings.max_steps,
                "world_size": world_size,
                "device_changes": module.device_changes,
                "device": _device_name(trainer.strategy.root_device),
                "peak_memory_mib": _peak_memory_mib(trainer.strategy.root_device),
                "seconds": round(metrics_file.elapsed(), 1),
                **origin,
            },
        )
    return result


def _peak_memory_mib(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def make_trainer(settings: LoopSettings, output: Path, *, logs: bool = True) -> pl.Trainer:
    """Make Lightning's Trainer; training is one endless epoch that ends after ``max_steps``.

    Args:
        logs: write logs and checkpoints to the run folder ``output``.

    Raises:
        ValueError: the devices are not available.
    """
    if settings.precision == "bf16-mixed" and runs_on_cpu(settings.accelerator):
        _warn_if_bf16_is_slow()
    callbacks: list[pl.Callback] = [make_progress()]
    if logs:
        callbacks.append(LastCheckpoint(output / "checkpoints", every=settings.checkpoint_every))
    loggers = []
    if logs and is_first_process():
        loggers = make_loggers(settings.loggers, output, settings=settings.shown)
    evaluates = settings.eval_every is not None and settings.eval_every <= settings.max_steps
    try:
        with quiet_lightning():
            trainer = pl.Trainer(
                accelerator=settings.accelerator,
                devices=settings.devices,
                num_nodes=settings.num_nodes,
                strategy=DDPStrategy(timeout=timedelta(seconds=settings.timeout))
                if settings.num_processes > 1
                else "auto",
                precision=settings.precision,  # type: ignore[arg-type]
                max_steps=settings.max_steps,
                max_epochs=-1,
                accumulate_grad_batches=settings.accumulate,
                val_check_interval=settings.eval_every * settings.accumulate if evaluates else None,  # type: ignore[operator]
                check_val_every_n_epoch=None if evaluates else 1,
                num_sanity_val_steps=0,
                gradient_clip_val=settings.clip_grad_norm,
                use_distributed_sampler=False,
                log_every_n_steps=1,
                logger=loggers,
                callbacks=callbacks,
                plugins=[CheckpointFiles(), *cluster_environments()],
                enable_checkpointing=logs,
                enable_model_summary=False,
                default_root_dir=output,
                benchmark=torch.cuda.is_available(),
            )
    except (MisconfigurationException, ImportError, ValueError) as error:
        got = f"accelerator {shown(settings.accelerator)}, devices {shown(settings.devices)}"
        raise ValueError(f"{got}: {' '.join(str(error).split())[:500]}") from error
    if trainer.strategy.root_device.type == "mps":
        raise ValueError("accelerator: Apple's GPUs have no float64, which matching needs; choose cpu")
    if settings.ema_decay is not None and logs:  # Lightning's default keeps the average on the CPU
        average = get_ema_multi_avg_fn(settings.ema_decay)
        averaging = _EvaluatedAverage(device=trainer.strategy.root_device, multi_avg_fn=average)
        trainer.callbacks.insert(0, averaging)  # type: ignore[attr-defined]
    return trainer


class _EvaluatedAverage(WeightAveraging):
    """Lightning's average of the weights, which stays in the model until an evaluation has been read."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for the end of the validation: its result is not there yet."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)


def runs_on_cpu(accelerator: str) -> bool:
    """Whether Lightning uses the CPU for this accelerator."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


@cache
def _warn_if_bf16_is_slow() -> None:
    """Warn once per process, not once per arm of a comparison."""
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.11 has none
    if not any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16")):
        log.warning("precision: bf16-mixed is about three times slower than 32-true on this CPU")
