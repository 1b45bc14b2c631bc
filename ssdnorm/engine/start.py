"""The digest of a run's start: initial weights, first batches, parameter groups. Equal digests prove an equal start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ssdnorm.engine.module import TrainingModule
from ssdnorm.files import START_FILE, refuse_damage, write_text
from ssdnorm.structures import Batch

NUM_BATCHES = 2


class StartFile(pl.Callback):
    """Write ``start.json`` at the first steps of a run that starts anew.

    Its keys: ``weights``, parameter name → SHA-256 of the initial value; ``batches``, one digest per batch of the first
    process; and the record. A run resumed from a checkpoint keeps the file that it has, and adds missing batches.

    Args:
        folder: of the run.
        record: written as it is, e.g. the parameter groups.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any]) -> None:
        self.path = folder / START_FILE
        self._content: dict[str, Any] = dict(record)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Digest the weights before the first step, and the first batches as they pass."""
        if not trainer.is_global_zero or batch_idx >= NUM_BATCHES:
            return
        if trainer.global_step == batch_idx == 0:
            assert isinstance(pl_module, TrainingModule)
            self._content["weights"] = {name: digest([value]) for name, value in pl_module.model.named_parameters()}
            self._content["batches"] = []
        elif "batches" not in self._content and self.path.exists():  # resumed after its first step
            with refuse_damage(self.path, "delete it to go on without it"):
                self._content = dict(json.loads(self.path.read_text(encoding="utf-8")))
                self._content["batches"] = list(self._content["batches"])
        if "batches" in self._content and len(self._content["batches"]) == batch_idx:
            self._content["batches"].append(digest([batch.images, batch.boxes, batch.labels]))
            write_text(self.path, json.dumps(self._content))


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 over shapes and values.

    Example:
        >>> digest([torch.zeros(2, 3)]) == digest([torch.zeros(2, 3)])
        True
    """
    state = hashlib.sha256()
    for tensor in tensors:
        state.update(str(tuple(tensor.shape)).encode())
        state.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
