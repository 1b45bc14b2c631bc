"""This file is about the config: what one training is, as dataclasses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal


@dataclass
class NormConfig:
    """Which norm goes where; a norm spec is a name, or a mapping such as ``{kind: group_norm, groups: 16}``.

    Args:
        backbone: after every convolution of the backbone.
        extras: after every convolution of the extra layers.
        taps: by tap, between the tap and the head.
    """

    backbone: str | dict[str, Any] = "none"
    extras: str | dict[str, Any] = "none"
    taps: dict[str, str | dict[str, Any]] = field(default_factory=lambda: {"conv4_3": "l2_norm"})


@dataclass
class ModelConfig:
    """The network.

    Args:
        name: which SSD.
        width: factor on every channel count.
        dropout: probability of a zero after fc6 and fc7, or by name (one that is left out has none); the paper has 0.
        default_boxes: sizes of the default boxes; null takes the VOC sizes of the network.
        weights: ImageNet weights of the backbone, a torchvision name or a file; null draws them.
        checkpoint: a whole SSD to fine-tune, of this library or another system; null starts without one. Norms that
            it lacks keep their initial values; default_boxes: null takes its boxes.
        head: keep loads the checkpoint's class outputs, which needs its classes; fresh draws them anew.
        compile: run the network through torch.compile.
    """

    name: Literal["ssd300_vgg16", "ssd512_vgg16"] = "ssd300_vgg16"
    width: float = 1.0
    dropout: float | dict[str, float] = 0.5
    default_boxes: str | None = None
    weights: str | None = None
    checkpoint: str | None = None
    head: Literal["keep", "fresh"] = "keep"
    compile: bool = False


@dataclass
class SourceConfig:
    """Where images and boxes come from. The keys that are read depend on the format; others are refused.

    Args:
        format: voc (root, split), coco (annotations, images) or shapes (num_images, seed).
        root: folder of a VOC year, or several.
        split: name of the image list, one for each root.
        annotations: COCO instances file.
        images: folder of the images that it names.
        num_images: shapes are drawn on the fly, so many pictures.
        seed: of the drawn pictures.
        only: image ids (coco) or file names without suffix (voc) to take; null takes all.
    """

    format: Literal["voc", "coco", "shapes"] = "voc"
    root: str | list[str] | None = None
    split: str | list[str] | None = None
    annotations: str | None = None
    images: str | None = None
    num_images: int | None = None
    seed: int | None = None
    only: list[int] | list[str] | None = None


@dataclass
class DataConfig:
    """What is trained and evaluated on.

    Args:
        class_names: without background, in the order of the labels; null takes those found in the data.
        train: images to train on.
        validation: images to evaluate on during training and to choose by; null leaves that to the test images.
        test: images to evaluate on at the end.
        train_on_difficult: whether VOC's difficult objects are trained on (evaluation ignores them in any case).
        on_bad_annotation: drop says what is wrong and goes on; error stops.
    """

    class_names: list[str] | None = None
    train: SourceConfig = field(default_factory=SourceConfig)
    validation: SourceConfig | None = None
    test: SourceConfig = field(default_factory=SourceConfig)
    train_on_difficult: bool = True
    on_bad_annotation: Literal["drop", "error"] = "drop"


@dataclass
class AugmentConfig:
    """The steps of SSD's augmentation; each can be switched off."""

    photometric: bool = True
    zoom_out: bool = True
    iou_crop: bool = True
    flip: bool = True
    channel_swap: bool = False


@dataclass
class LossConfig:
    """Matching and mining.

    Args:
        iou_threshold: smallest IoU at which a default box is matched.
        negative_ratio: mined background boxes per matched box.
    """

    iou_threshold: float = 0.5
    negative_ratio: float = 3.0


@dataclass
class PostProcessConfig:
    """From raw output to detections; see ``PostProcess``."""

    score_threshold: float = 0.01
    nms_threshold: float = 0.45
    top_k: int = 400
    max_detections: int = 200


@dataclass
class GroupConfig:
    """How a group of parameters departs from the rest.

    Args:
        lr_factor: on the learning rate.
        weight_decay: instead of the general one.
    """

    lr_factor: float = 1.0
    weight_decay: float = 0.0


@dataclass
class OptimizerConfig:
    """SGD and its schedule, in steps.

    Args:
        lr: learning rate after the warm-up.
        momentum: of SGD.
        weight_decay: of all parameters that are neither norms nor biases.
        preset: caffe (norms are decayed, biases learn twice as fast without decay) or modern (no decay on norms and
            biases): stands for norms and biases, and is written out as these in the run's config.
        norms: parameters of norms, L2Norm's scales included.
        biases: biases of convolutions.
        warmup_steps: steps over which the rate rises linearly from warmup_factor · lr.
        warmup_factor: where the rise starts.
        lr_drops: steps at which the rate is multiplied by lr_drop_factor.
        lr_drop_factor: see lr_drops.
    """

    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    preset: Literal["caffe", "modern"] | None = None
    norms: GroupConfig = field(default_factory=lambda: GroupConfig(1.0, 5e-4))
    biases: GroupConfig = field(default_factory=lambda: GroupConfig(2.0, 0.0))
    warmup_steps: int = 500
    warmup_factor: float = 0.1
    lr_drops: list[int] = field(default_factory=list)
    lr_drop_factor: float = 0.1


@dataclass
class TrainingConfig:
    """The loop.

    Args:
        max_steps: optimizer steps.
        batch_size: images of one device in one step.
        seed: of initial weights, order, augmentation and dropout.
        precision: 32-true, bf16-mixed or 16-mixed.
        ema_decay: decay of the averaged weights, which are then evaluated and saved; null for none.
        clip_grad_norm: largest L2 length of the gradient; null for none.
        eval_every: steps between evaluations; null evaluates at the end alone.
        checkpoint_every: steps between checkpoints, from which --resume goes on.
        population_images: at the end batch norm's statistics are recomputed over so many training images, and evaluated
            beside the running ones; null does not.
    """

    max_steps: int = 120_000
    batch_size: int = 32
    seed: int = 0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    ema_decay: float | None = None
    clip_grad_norm: float | None = None
    eval_every: int | None = None
    checkpoint_every: int = 1000
    population_images: int | None = None


@dataclass
class RuntimeConfig:
    """How it is run; changes no result beyond rounding, so --resume may change it: all but how many devices there are.

    Args:
        devices: how many of the accelerator, or auto; each takes a batch of its own.
        accelerator: auto, cpu, gpu, …
        num_nodes: machines.
        num_workers: processes that load images; 0 loads in the main one.
        cache_images: the most MiB that the decoded training images may take, kept in memory that the loading processes
            share; for small sets. null reads the files each time.
        log_every: steps between entries of the logs.
        diagnose_every: steps between measurements of layers, taps, scales and gradients, in diagnostics.csv; null for
            none.
    """

    devices: int | Literal["auto"] = "auto"
    accelerator: str = "auto"
    num_nodes: int = 1
    num_workers: int = 0
    cache_images: int | None = None
    log_every: int = 20
    diagnose_every: int | None = None


@dataclass
class Config:
    """One training, complete."""

    norm: NormConfig = field(default_factory=NormConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    post_process: PostProcessConfig = field(default_factory=PostProcessConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


_SOURCE_KEYS = {"voc": ("root", "split"), "coco": ("annotations", "images"), "shapes": ("num_images", "seed")}


def check_values(config: Config, where: str) -> None:
    """Refuse what the types allow but no training can mean.

    Args:
        where: what messages start with.

    Raises:
        ValueError: naming the key, what was got and what is allowed.
    """
    for name in ("train", "validation", "test"):
        source: SourceConfig | None = getattr(config.data, name)
        if source is None:
            continue
        wanted = _SOURCE_KEYS[source.format]
        for key in ("root", "split", "annotations", "images", "num_images", "seed"):
            given = getattr(source, key) is not None
            if given and key not in wanted:
                raise ValueError(f"{where}: data.{name}.{key}: not a key of format {source.format}, which has {wanted}")
            if not given and key in wanted:
                raise ValueError(f"{where}: data.{name}.{key}: needed by format {source.format}")
        if source.format == "shapes" and source.only is not None:
            raise ValueError(f"{where}: data.{name}.only: not a key of format shapes; give num_images")
    if config.model.checkpoint is not None and config.model.weights is not None:
        raise ValueError(f"{where}: model.weights: a checkpoint brings its backbone along; set one of the two to null")
    if config.model.checkpoint is None and config.model.head == "fresh":
        raise ValueError(f"{where}: model.head: fresh is about the head of model.checkpoint, which is null")
    for tap in config.norm.taps:
        if not isinstance(tap, str):
            raise ValueError(f"{where}: norm.taps: a tap has a name, such as conv4_3; got {tap!r}")
    for key, value in _numbers(config):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {key}: must be finite; got {value}")
    optimizer, training, runtime = config.optimizer, config.training, config.runtime
    positive = {
        "model.width": config.model.width,
        "optimizer.lr": optimizer.lr,
        "optimizer.lr_drop_factor": optimizer.lr_drop_factor,
        "training.max_steps": training.max_steps,
        "training.batch_size": training.batch_size,
        "training.checkpoint_every": training.checkpoint_every,
        "training.eval_every": training.eval_every,
        "training.population_images": training.population_images,
        "training.clip_grad_norm": training.clip_grad_norm,
        "runtime.cache_images": runtime.cache_images,
        "runtime.log_every": runtime.log_every,
        "runtime.diagnose_every": runtime.diagnose_every,
        "runtime.num_nodes": runtime.num_nodes,
    }
    for key, number in positive.items():
        if number is not None and not number > 0:
            raise ValueError(f"{where}: {key}: must be above 0; got {number}")
    at_least_zero = {
        "optimizer.weight_decay": optimizer.weight_decay,
        "optimizer.norms.weight_decay": optimizer.norms.weight_decay,
        "optimizer.norms.lr_factor": optimizer.norms.lr_factor,
        "optimizer.biases.weight_decay": optimizer.biases.weight_decay,
        "optimizer.biases.lr_factor": optimizer.biases.lr_factor,
        "optimizer.warmup_steps": optimizer.warmup_steps,
        "runtime.num_workers": runtime.num_workers,
    }
    for key, number in at_least_zero.items():
        if number < 0:
            raise ValueError(f"{where}: {key}: must be 0 or more; got {number}")
    if isinstance(runtime.devices, int) and runtime.devices < 1:
        raise ValueError(f"{where}: runtime.devices: must be 1 or more, or auto; got {runtime.devices}")
    seeds = {"training.seed": training.seed}
    for name in ("train", "validation", "test"):
        source = getattr(config.data, name)
        if source is not None and source.seed is not None:
            seeds[f"data.{name}.seed"] = source.seed
    for key, number in seeds.items():
        if not 0 <= number < 2**31:
            raise ValueError(f"{where}: {key}: must lie in [0, 2147483648); got {number}")
    fractions = {"optimizer.momentum": optimizer.momentum, "training.ema_decay": training.ema_decay}
    for key, number in fractions.items():
        if number is not None and not 0 <= number < 1:
            raise ValueError(f"{where}: {key}: must lie in [0, 1); got {number}")
    if not 0 < optimizer.warmup_factor <= 1:
        raise ValueError(f"{where}: optimizer.warmup_factor: must lie in (0, 1]; got {optimizer.warmup_factor}")
    if sorted(set(optimizer.lr_drops)) != optimizer.lr_drops or any(step <= 0 for step in optimizer.lr_drops):
        raise ValueError(f"{where}: optimizer.lr_drops: must be rising steps above 0; got {optimizer.lr_drops}")
    if any(step >= training.max_steps for step in optimizer.lr_drops):
        raise ValueError(
            f"{where}: optimizer.lr_drops: {optimizer.lr_drops} reaches past training.max_steps {training.max_steps}"
        )


def _numbers(part: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of the config with its key."""
    items = vars(part) if is_dataclass(part) else part
    for name, value in items.items():
        if is_dataclass(value) or isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value
