"""Train a model into a run folder: weights, metrics, detections, logs, and the record of the run."""

from __future__ import annotations

import logging
import os
import resource
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssdnorm.engine.callbacks import MetricsFile, SparseProgressBar, make_checkpoints
from ssdnorm.engine.evaluation import EvaluationResult
from ssdnorm.engine.module import NonFiniteLossError, TrainingModule
from ssdnorm.files import FAILURE_FILE, write_json
from ssdnorm.provenance import provenance

log = logging.getLogger("ssdnorm.engine")


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the training loop.

    Args:
        max_steps: optimizer steps.
        batch_size: images per step and device.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        ema_decay: of the average of the weights; None for no average.
        clip_grad_norm: largest norm of all gradients together; None for no clipping.
        eval_every: steps between evaluations; None evaluates at the end only.
        checkpoint_every: steps between checkpoints.
        devices, accelerator, num_nodes: as for Lightning's Trainer.
        images_per_epoch: images of the training set.
    """

    max_steps: int
    batch_size: int
    precision: str
    ema_decay: float | None
    clip_grad_norm: float | None
    eval_every: int | None
    checkpoint_every: int
    devices: int | str
    accelerator: str
    num_nodes: int
    images_per_epoch: int


def train(
    module: TrainingModule,
    settings: LoopSettings,
    output: Path,
    *,
    resume: bool,
    save_weights: Callable[[Path], None],
    record: Mapping[str, Any],
    callbacks: Sequence[pl.Callback] = (),
) -> EvaluationResult:
    """Train to ``max_steps``, evaluate, and write weights, detections and ``result.json`` to the run folder.

    Args:
        output: the run folder.
        resume: continue from ``checkpoints/last.ckpt`` if it exists.
        save_weights: writes the trained model to a path.
        record: added to ``result.json``.
        callbacks: further callbacks for Lightning's Trainer.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite; also written to ``failure.json`` in the run folder.
        ValueError: the checkpoint is damaged, or from another number of devices.
    """
    origin = provenance()  # before training: the commit may change meanwhile
    checkpoint = output / "checkpoints" / "last.ckpt"
    resume = resume and checkpoint.exists()
    trainer = make_trainer(settings, output)
    world_size = trainer.world_size
    metrics_file = MetricsFile(
        output / "metrics.csv",
        images_per_epoch=settings.images_per_epoch,
        images_per_step=settings.batch_size * world_size,
    )
    trainer.callbacks[:0] = [metrics_file, *callbacks]  # type: ignore[attr-defined]
    if resume and not zipfile.is_zipfile(checkpoint):
        raise ValueError(f"resume: {checkpoint} is cut off or no checkpoint; delete it to restart the run")
    with _quiet():
        try:
            trainer.fit(module, ckpt_path=str(checkpoint) if resume else None, weights_only=True)
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
        validation: dict[str, Any] = {}
        if module.validation is not None:
            validation["metrics_validation"] = module.evaluate_on(trainer, module.validation).metrics
        result = module.evaluate_on(trainer, module.test)
    if trainer.is_global_zero:
        save_weights(output / "checkpoints" / "model.safetensors")
    population = _evaluate_population(module, trainer, output, save_weights)
    if trainer.is_global_zero:
        write_json(output / "detections.json", result.detections)
        write_json(
            output / "result.json",
            {
                "metrics": result.metrics,
                "per_class": result.per_class,
                **validation,
                **population,
                **record,
                "steps": settings.max_steps,
                "world_size": world_size,
                "device": _device_name(trainer.strategy.root_device),
                "peak_memory_mib": _peak_memory_mib(trainer.strategy.root_device),
                "seconds": round(metrics_file.elapsed(), 1),
                **origin,
            },
        )
    return result


def _evaluate_population(
    module: TrainingModule, trainer: pl.Trainer, output: Path, save_weights: Callable[[Path], None]
) -> dict[str, Any]:
    """Evaluate with population statistics for ``result.json``, and save the weights that have them."""
    if module.population is None:
        return {}

    def save() -> None:
        if trainer.is_global_zero:
            save_weights(output / "checkpoints" / "model_population.safetensors")

    with _quiet():
        result = module.evaluate_with_population_stats(trainer, save_weights=save)
    return {
        "metrics_population": result.metrics,
        "population_images": module.population.num_images,
        "population_statistics": [asdict(row) for row in module.population_statistics or ()],
    }


def _peak_memory_mib(device: torch.device) -> int:
    """Peak memory: allocated on a GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def make_trainer(settings: LoopSettings, output: Path, *, logs: bool = True) -> pl.Trainer:
    """Make Lightning's Trainer; training is one endless epoch that ends after ``max_steps``.

    Args:
        output: the run folder.
        logs: write logs and checkpoints there.

    Raises:
        ValueError: the devices are not available.
    """
    if settings.precision == "bf16-mixed" and runs_on_cpu(settings.accelerator) and not _cpu_has_bf16():
        log.warning("precision: bf16-mixed is about three times slower than 32-true on this CPU")
    callbacks: list[pl.Callback] = [SparseProgressBar(settings.max_steps)]
    if logs:
        callbacks.append(make_checkpoints(output / "checkpoints", every=settings.checkpoint_every))
    evaluates = settings.eval_every is not None and settings.eval_every <= settings.max_steps
    try:
        with _quiet():
            trainer = pl.Trainer(
                accelerator=settings.accelerator,
                devices=settings.devices,
                num_nodes=settings.num_nodes,
                precision=settings.precision,  # type: ignore[arg-type]
                max_steps=settings.max_steps,
                max_epochs=-1,
                val_check_interval=settings.eval_every if evaluates else None,
                check_val_every_n_epoch=None if evaluates else 1,
                num_sanity_val_steps=0,
                gradient_clip_val=settings.clip_grad_norm,
                use_distributed_sampler=False,
                log_every_n_steps=1,
                logger=TensorBoardLogger(output, name="", version="tensorboard") if logs else False,
                callbacks=callbacks,
                enable_checkpointing=logs,
                enable_model_summary=False,
                default_root_dir=output,
                benchmark=torch.cuda.is_available(),
            )
    except (MisconfigurationException, ImportError, ValueError) as error:
        got = f"accelerator {settings.accelerator!r}, devices {settings.devices!r}"
        raise ValueError(f"{got}: {' '.join(str(error).split())}") from error
    if trainer.strategy.root_device.type == "mps":
        raise ValueError("accelerator: Apple's GPUs have no float64, which matching needs; choose cpu")
    if settings.ema_decay is not None and logs:  # Lightning's default keeps the average on the CPU
        average = get_ema_multi_avg_fn(settings.ema_decay)
        averaging = WeightAveraging(device=trainer.strategy.root_device, multi_avg_fn=average)
        trainer.callbacks.insert(0, averaging)  # type: ignore[attr-defined]
    return trainer


def runs_on_cpu(accelerator: str) -> bool:
    """Whether Lightning uses the CPU for this accelerator."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def _cpu_has_bf16() -> bool:
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # PyTorch 2.11 has none
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def is_first_process() -> bool:
    """Whether this process is the only or the first one of a run on several devices or machines."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Lightning's tips, and its warnings about what is intended here."""
    levels = {name: logging.getLogger(name).level for name in _LIGHTNING_LOGGERS}
    with warnings.catch_warnings():
        for pattern in (
            ".*does not have many workers.*",
            ".*Checkpoint directory .* exists and is not empty.*",
            ".*isn't accessible.*",
            ".*The number of training batches.*",
            ".*You're resuming from a checkpoint that ended before the epoch ended.*",
            ".*IterableDataset.*",
            ".*You defined a `validation_step` but have no `val_dataloader`.*",
        ):
            warnings.filterwarnings("ignore", pattern)
        for name in _LIGHTNING_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


_LIGHTNING_LOGGERS = ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning.pytorch")
