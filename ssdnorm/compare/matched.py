"""This file is about matching: what arms share before the first step, bit by bit, and what they do not."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from ssdnorm.build import batch_norm_images, build_model, build_training
from ssdnorm.compare.plan import Arm, Plan, make_job
from ssdnorm.compare.results import Matched
from ssdnorm.data.dataset import DetectionDataset
from ssdnorm.engine.optimizer import describe_groups

_NUM_BATCHES = 2

log = logging.getLogger("ssdnorm.compare")


@dataclass(frozen=True)
class Start:
    """An arm before its first step: a digest of each parameter, of the first batches, and its parameter groups."""

    parameters: dict[str, str]
    batches: list[str]
    parameter_groups: list[dict[str, Any]]
    batch_norm_images: int | None


def compare_starts(
    plan: Plan, lrs: Mapping[str, float], train_set: DetectionDataset, test_set: DetectionDataset
) -> dict[str, Matched]:
    """Build every arm, draw its first batches, and compare them with the baseline's.

    Arms that cannot be built here, because a file of weights is missing for instance, are left out and named in the
    log; all of them, if it is the baseline.

    Args:
        plan: its first seed is looked at; weights and batches depend on the seed in the same way in all arms.
        lrs: arm → chosen learning rate.
    """
    starts = {}
    for arm in plan.arms:
        try:
            starts[arm.name] = start_of(arm, plan.seeds[0], lrs[arm.name], train_set, test_set)
        except (OSError, ValueError, RuntimeError) as error:  # the arm's own runs fail of it too
            log.warning("%s: not built again to see what it shares with %s: %s", arm.name, plan.baseline, error)
    if plan.baseline not in starts:
        return {}
    return {name: match(start, starts[plan.baseline]) for name, start in starts.items()}


def start_of(arm: Arm, seed: int, lr: float, train_set: DetectionDataset, test_set: DetectionDataset) -> Start:
    """What an arm starts from with a seed and a learning rate."""
    config = make_job(arm, seed, lr).config
    training = config.training.model_copy(update={"population_images": None})  # is about the end
    runtime = config.runtime.model_copy(update={"num_workers": 0, "cache_images": None})  # change no batch
    config = config.model_copy(update={"training": training, "runtime": runtime})
    model = build_model(config, 1 + len(train_set.class_names), class_names=train_set.class_names)
    module = build_training(config, model, train_set=train_set, test_set=test_set)
    assert module.make_train_loader is not None
    loader = module.make_train_loader(rank=0, world_size=1, start_batch=0)
    return Start(
        {name: _digest([parameter]) for name, parameter in model.named_parameters()},
        [_digest([batch.images, batch.boxes, batch.labels]) for batch in islice(loader, _NUM_BATCHES)],
        describe_groups(module.make_optimizer(model)),  # type: ignore[arg-type]
        batch_norm_images(config, model),
    )


def match(ours: Start, baseline: Start) -> Matched:
    """What two starts have in common."""
    common = [name for name in ours.parameters if name in baseline.parameters]
    return Matched(
        identical=sum(ours.parameters[name] == baseline.parameters[name] for name in common),
        different=[name for name in common if ours.parameters[name] != baseline.parameters[name]],
        added=[name for name in ours.parameters if name not in baseline.parameters],
        removed=[name for name in baseline.parameters if name not in ours.parameters],
        same_batches=ours.batches == baseline.batches,
        parameter_groups=ours.parameter_groups,
        batch_norm_images=ours.batch_norm_images,
    )


def _digest(tensors: Sequence[Tensor]) -> str:
    """Of shapes and values, bit by bit."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
