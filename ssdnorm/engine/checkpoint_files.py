"""The checkpoints that a run resumes from: written whole beside the last one, with a checksum that tells damage."""

from __future__ import annotations

import hashlib
import io
import logging
import signal
import struct
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from ssdnorm.files import replaced_file

log = logging.getLogger("ssdnorm.engine")

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_LABEL = b"ssdnorm sha256 "
_NO_COMMENT = struct.pack("<H", 0)  # the length of a zip file's comment, which ends the file
_SIGNATURE_BYTES = len(_NO_COMMENT) + len(_LABEL) + 2 * hashlib.sha256().digest_size
_AGREE_EVERY = 10  # steps; the processes of a run must stop at the same one


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, as :func:`write_checkpoint_file` does it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        write_checkpoint_file(checkpoint, Path(path))


class LastCheckpoint(Checkpoint):
    """Write ``last.ckpt`` every so many steps and at the last, after everything else that belongs to the step.

    A step's rows and its evaluation come first, so a run that is killed and resumed has them all. On SIGUSR2 it is
    written at the next step, and training ends as after Ctrl-C.

    Args:
        folder: of the checkpoints.
        every: optimizer steps.
    """

    def __init__(self, folder: Path, *, every: int) -> None:
        self.path = folder / LAST
        self.every = every
        self._told_to_stop = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to SIGUSR2; Lightning restores what was there before when training ends."""

        def stop(*_: Any) -> None:
            self._told_to_stop = True

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR2, stop)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:  # within a step
            return
        every = trainer.val_check_batch
        evaluation_follows = trainer.enable_validation and every is not None and (batch_idx + 1) % every == 0
        if not evaluation_follows:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        step, stops, last = trainer.global_step, self._stops(trainer), trainer.global_step == trainer.max_steps
        if stops or last or step % self.every == 0:
            for logger in trainer.loggers:
                logger.save()
            trainer.save_checkpoint(self.path)
        if stops and not last:
            log.info("step %d: told to stop; resuming continues from here", step)
            raise KeyboardInterrupt

    def _stops(self, trainer: pl.Trainer) -> bool:
        if trainer.world_size == 1:
            return self._told_to_stop or trainer.received_sigterm
        agrees = trainer.global_step % _AGREE_EVERY == 0
        return agrees and trainer.strategy.reduce_boolean_decision(self._told_to_stop, all=False)


def write_checkpoint_file(content: dict[str, Any], path: Path) -> None:
    """Write a checkpoint with its checksum as the comment of the zip archive; the file before it is kept as previous.

    Torch writes to memory, because on a full disk it would end the process.
    """
    memory = io.BytesIO()
    torch.save(content, memory)
    archive = memory.getbuffer()[: -len(_NO_COMMENT)]
    with replaced_file(path, previous=path.with_name(PREVIOUS)) as unfinished, unfinished.open("wb") as file:
        file.write(archive)
        file.write(_signature(archive))


def find_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, None if it has none yet; ``ValueError`` if none of those there is whole."""
    there = [path for name in (LAST, PREVIOUS) if (path := folder / name).exists()]
    whole = next((path for path in there if _is_whole(path)), None)
    if there and whole is None:
        raise ValueError(
            f"resume: {there[0]} is damaged or has no checksum, as in earlier versions; delete it to restart the run"
        )
    if whole is not None and whole.name == PREVIOUS:
        log.warning("resume: %s is %s; going on from %s", folder / LAST, "damaged" if there[1:] else "missing", whole)
    return whole


def _is_whole(path: Path) -> bool:
    """Whether a file ends in the signature of what precedes it."""
    content = memoryview(path.read_bytes())
    return content[-_SIGNATURE_BYTES:] == _signature(content[:-_SIGNATURE_BYTES])


def _signature(archive: memoryview) -> bytes:
    """A comment with the SHA-256 of a zip archive, which is given without its empty comment."""
    checksum = hashlib.sha256(archive)
    checksum.update(_NO_COMMENT)
    comment = _LABEL + checksum.hexdigest().encode()
    return struct.pack("<H", len(comment)) + comment
