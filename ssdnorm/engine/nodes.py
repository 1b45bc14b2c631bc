"""Several processes of one training, on one machine or many: which is the first, and whether they start alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins import ClusterEnvironment
from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment


def is_first_process() -> bool:
    """Whether this process is the first of its run."""
    if "RANK" in os.environ:  # torchrun's may be another than Slurm's
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("SLURM_PROCID", "NODE_RANK", "LOCAL_RANK"))


def may_be_restarted() -> bool:
    """Whether torchrun starts the processes of a run again when one was killed.

    The number of the restart says little: torchrun does not count those of healthy nodes.
    """
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


def check_processes(num_processes: int) -> None:
    """Refuse another number of processes than was started from outside, and restarts that cannot work.

    Args:
        num_processes: devices of all machines, as in the config.

    Raises:
        ValueError: each process would train for itself, all into one run folder; or torchrun's restarts would fail.
    """
    if "RANK" in os.environ and (started := int(os.environ.get("WORLD_SIZE", num_processes))) != num_processes:
        raise ValueError(
            f"runtime: {started} processes were started (WORLD_SIZE), but devices × num_nodes is {num_processes}; "
            "set both to what torchrun has as --nproc-per-node and --nnodes"
        )
    if num_processes > 1 and may_be_restarted() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise ValueError(
            "torchrun --max-restarts: start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment; "
            "otherwise restarted processes look for each other where those before them were"
        )


def cluster_environments() -> list[ClusterEnvironment]:
    """For Lightning's plugins: torchrun's variables where they are set, whoever set them; else Lightning chooses.

    In a task of Slurm, Lightning must not requeue the job: it would do so with a checkpoint of its own.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        try:
            return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
        except RuntimeError as error:  # tasks that Lightning does not understand
            raise ValueError(f"Slurm: {error}") from error
    os.environ.setdefault("LOCAL_RANK", "0")
    return [TorchElasticEnvironment()]


class SameStart(pl.Callback):
    """Refuse to train if a process starts from another step, data or settings than the first.

    Args:
        record: what must be the same; can be pickled.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = record

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare with the first process."""
        mine = {"step": trainer.global_step, **self.record}
        first = trainer.strategy.broadcast(mine)
        if differing := [name for name in mine if mine[name] != first[name]]:
            raise ValueError(
                f"process {trainer.global_rank} of {trainer.world_size}: starts with another {', '.join(differing)} "
                "than the first; all need the same config, data and run folder (a file system that they share)"
            )
