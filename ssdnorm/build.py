"""Build the objects of a training from its config."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ssdnorm.boxes.default_boxes import default_box_spec
from ssdnorm.config import CocoSource, Config, DefaultBoxesConfig, ShapesSource, VocSource, YoloSource
from ssdnorm.data.batches import make_eval_loader, make_train_loader
from ssdnorm.data.coco import CocoDataset
from ssdnorm.data.dataset import DetectionDataset, subset
from ssdnorm.data.image_cache import CachedDataset
from ssdnorm.data.shapes import ShapesDataset
from ssdnorm.data.transforms import EvalTransform, TrainTransform
from ssdnorm.data.voc import VocDataset
from ssdnorm.data.yolo import YoloDataset
from ssdnorm.detector import MODELS
from ssdnorm.engine.loggers import check_loggers
from ssdnorm.engine.module import EvaluationSet, PopulationImages, TrainingModule
from ssdnorm.engine.optimizer import GroupRule, lr_schedule, make_optimizer
from ssdnorm.engine.run import LoopSettings, make_trainer, runs_on_cpu
from ssdnorm.layers import (
    check_batch_statistics,
    norm_layer,
    norm_parameters,
    recompute_population_stats,
    running_statistics,
    warn_dropout_before_batch_norm,
)
from ssdnorm.losses.multibox_loss import MultiboxLoss
from ssdnorm.messages import unknown_name
from ssdnorm.models.class_names import same_class
from ssdnorm.models.foreign import read_any_checkpoint
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import SSD, vgg16_default_boxes
from ssdnorm.models.transfer import freeze_layers, transfer_weights
from ssdnorm.resize import height_and_width

log = logging.getLogger("ssdnorm.build")

_KEYS = {"tap_norms": "norm.taps"} | {
    name: f"model.{name}" for name in ("default_boxes", "dropout", "weights", "width")
}


def build_model(config: Config, num_classes: int, *, class_names: Sequence[str] | None = None) -> SSD:
    """Build the network, with drawn or pretrained initial weights.

    Args:
        class_names: of the data; those of ``model.checkpoint`` must be the same where its head is kept.

    Raises:
        FileNotFoundError: ``model.checkpoint`` does not exist.
        ValueError: a norm, tap, option, group count, default boxes or weights that cannot be honoured.
    """
    model, norm = config.model, config.norm
    arguments: dict[str, Any] = {} if model.default_boxes is None else {"default_boxes": model.default_boxes}
    if isinstance(model.default_boxes, DefaultBoxesConfig):
        try:
            arguments = {"default_boxes": vgg16_default_boxes(model.input_size, **vars(model.default_boxes))}
        except ValueError as error:
            raise ValueError(f"model.default_boxes.{error}") from error
    checkpoint = None
    if model.checkpoint is not None:
        checkpoint = read_any_checkpoint(Path(model.checkpoint))
        theirs, boxes = checkpoint.model["name"], default_box_spec(checkpoint.model["default_boxes"])
        if theirs == model.name and height_and_width(boxes.image_size) == height_and_width(model.input_size):
            arguments = arguments or {"default_boxes": boxes}
        elif model.head != "fresh":
            got = f"a {theirs} for {boxes.image_size} pixels; model.name is {model.name} for {model.input_size}"
            raise ValueError(f"model.checkpoint: {model.checkpoint} is {got}; take those, or model.head: fresh")
    if model.name == "ssd_vgg16":
        arguments["image_size"] = model.input_size
    try:
        built = MODELS[model.name](
            num_classes,
            backbone_norm=norm_layer(norm.backbone, where="norm.backbone"),
            extras_norm=norm_layer(norm.extras, where="norm.extras"),
            tap_norms={tap: norm_layer(spec, where=f"norm.taps.{tap}") for tap, spec in norm.taps.items()},
            dropout=model.dropout,
            width=model.width,
            weights=model.weights,
            seed=config.training.seed,
            **arguments,
        )
    except ValueError as error:
        argument = str(error).partition(":")[0]
        raise ValueError(str(error).replace(argument, _KEYS.get(argument, argument), 1)) from error
    if checkpoint is not None:
        where = f"model.checkpoint: {model.checkpoint}"
        for note in transfer_weights(checkpoint, built, head=model.head, class_names=class_names, where=where):
            log.info("%s", note)
    if config.loss.focal is not None and (checkpoint is None or model.head == "fresh"):
        built.head.start_with_background()
    freeze_layers(built, model.freeze, where="model.freeze")
    return built


def model_of_shapes(config: Config) -> SSD:
    """The network without weights or memory, for two classes."""
    with torch.device("meta"):
        return build_model(config.with_values("model", weights=None, checkpoint=None, head="keep"), 2)


def check_model(config: Config) -> None:
    """Check that the model can be built and trained on these devices, without memory, weights or data.

    Raises:
        ValueError: as :func:`build_model` and :func:`check_statistics`; fp16 on a CPU; missing devices or loggers.
    """
    if config.training.precision == "16-mixed" and runs_on_cpu(config.runtime.accelerator):
        raise ValueError("training.precision: 16-mixed needs a GPU; on a CPU choose 32-true or bf16-mixed")
    settled: dict[str, object] = {"max_steps": 1, "eval_every": None}  # whatever comes out
    if config.training.precision == "auto":
        settled["precision"] = "32-true"
    trial = config.with_values("training", **settled)
    try:
        make_trainer(loop_settings(trial, images_per_epoch=1), Path(), logs=False)
    except ValueError as error:
        raise ValueError(f"runtime: {error}") from error
    check_loggers(config.runtime.loggers)
    model = model_of_shapes(config)
    if config.model.compile:
        averaging = [n for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.momentum is None]
        if averaging:
            raise ValueError(f"norm: {averaging[0]}: momentum: null, a mean over all steps, cannot be compiled")
    synchronised = [name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)]
    if synchronised and runs_on_cpu(config.runtime.accelerator) and num_processes(config) > 1:
        raise ValueError(f"norm: {synchronised[0]}: sync_batch_norm on several devices needs GPUs; choose batch_norm")
    if config.training.batch_size != "auto":
        check_statistics(config, model)


def check_statistics(config: Config, model: SSD) -> None:
    """Raise ``ValueError`` for norms that would take train-mode statistics over one value."""
    batch, population = config.training.batch_images, config.training.population_images
    processes = num_processes(config)
    batches = {f"training.batch_size {batch}": batch}
    if population is not None and (rest := -(-population // processes) % batch):
        batches[f"training.population_images {population}, whose last batch is {rest}"] = rest
    places = {"backbone": "norm.backbone", "extras": "norm.extras", "tap_norms": "norm.taps"}
    for key, num_images in batches.items():
        try:
            check_batch_statistics(model, (num_images, 3, *height_and_width(model.image_size)), world_size=processes)
        except ValueError as error:
            where = " and ".join(place for part, place in places.items() if f"features.{part}." in str(error))
            raise ValueError(f"{where} at {key}: {error}") from error


def batch_norm_images(config: Config, model: nn.Module) -> int | None:
    """Images per batch-norm statistic in training: a device's, or all if all are synchronised; None without any."""
    kinds = [isinstance(module, nn.SyncBatchNorm) for module in model.modules() if isinstance(module, _BatchNorm)]
    return config.training.batch_images * (num_processes(config) if all(kinds) else 1) if kinds else None


def num_processes(config: Config) -> int:
    """Training processes, one a device, of all machines."""
    runtime = config.runtime
    if isinstance(runtime.devices, int):
        return max(1, runtime.devices) * runtime.num_nodes
    return max(1, 0 if runs_on_cpu(runtime.accelerator) else torch.cuda.device_count()) * runtime.num_nodes


def build_dataset(config: Config, which: str, *, class_names: Sequence[str] | None = None) -> DetectionDataset:
    """Build the data set ``train``, ``validation`` or ``test`` of the config.

    Args:
        class_names: of the training set, for the others.

    Raises:
        FileNotFoundError: a missing folder, list or file.
        ValueError: bad annotations, or names that do not fit.
    """
    source, data, where = getattr(config.data, which), config.data, f"data.{which}"
    names, on_bad = data.class_names or class_names, data.on_bad_annotation
    if names is None and config.model.head == "extend":  # the checkpoint's, and after them those that it lacks
        assert config.model.checkpoint is not None
        old = list(read_any_checkpoint(Path(config.model.checkpoint)).class_names)
        found = build_dataset(config.with_values("model", head="keep"), "train").class_names
        names = old + [name for name in found if not any(same_class(name, other) for other in old)]
    dataset: DetectionDataset
    if isinstance(source, ShapesSource):
        options = source.model_dump(exclude={"format", "image_size"})
        shapes = ShapesDataset(**options, image_size=(source.image_size, source.image_size))
        if names is not None and tuple(names) != shapes.class_names:
            raise ValueError(f"data.class_names: shapes have the classes {shapes.class_names}; got {tuple(names)}")
        return shapes
    if isinstance(source, CocoSource):
        dataset = CocoDataset(source.annotations, source.images, class_names=names, on_bad_annotation=on_bad)
    elif isinstance(source, YoloSource):
        dataset = YoloDataset(source.root, source.split, class_names=names, on_bad_annotation=on_bad)
    else:
        assert isinstance(source, VocSource), f"{where}: null"
        difficult = data.train_on_difficult
        dataset = VocDataset(
            source.root, source.split, class_names=names, train_on_difficult=difficult, on_bad_annotation=on_bad
        )
    return dataset if source.only is None else _chosen(dataset, source.only, f"{where}.only")


def build_datasets(config: Config) -> dict[str, DetectionDataset]:
    """Build ``train``, ``test`` and, where the config has it, ``validation``, with the classes of the training set."""
    datasets = {"train": build_dataset(config, "train")}
    for which in ("test", "validation"):
        if getattr(config.data, which) is not None:
            datasets[which] = build_dataset(config, which, class_names=datasets["train"].class_names)
    return datasets


def names_for_only(dataset: DetectionDataset) -> list[str]:
    """What ``data.*.only`` calls the images of a whole data set: COCO's ids, and file stems elsewhere.

    Files of equal stems have as many folders in front as tell them apart: ``camA/0001``.
    """
    if isinstance(dataset, CocoDataset):
        return [str(dataset.image_id(i)) for i in range(len(dataset))]
    paths = [PurePath(dataset.image_path(i)).with_suffix("") for i in range(len(dataset))]
    names = [path.name for path in paths]
    for depth in range(2, 1 + max((len(path.parts) for path in paths), default=1)):
        counts = Counter(names)
        if len(counts) == len(names):
            break
        names = ["/".join(path.parts[-depth:]) if counts[n] > 1 else n for path, n in zip(paths, names, strict=True)]
    return names


def _chosen(dataset: DetectionDataset, only: Sequence[int | str] | str, where: str) -> DetectionDataset:
    """The images of a list, or of a text file of them, in its order."""
    if isinstance(only, str):
        try:
            lines = Path(only).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{where}: {only}: no readable text file of names ({type(error).__name__})") from None
        listed = [name for line in lines if (name := line.strip())]
    else:
        listed = list(map(str, only))
    if not listed:
        raise ValueError(f"{where}: {only}: lists no image; null takes all")
    if isinstance(dataset, CocoDataset):
        listed = [str(int(name)) if name.isdecimal() else name for name in listed]
    names = names_for_only(dataset)
    places, counts = {name: i for i, name in enumerate(names)}, Counter(names)
    for name in listed:
        if counts[name] != 1:
            alike = [other for other in names if f"/{other}".endswith(f"/{name}")]
            several = f"{name!r} are {len(alike)} images; choose one of: {', '.join(alike[:3])}"
            missing = f"no image {name!r} in the data set of {len(dataset)} images"
            raise ValueError(f"{where}: {several if alike else missing}")
    return subset(dataset, [places[name] for name in listed])


def build_loss(config: Config, model: SSD, class_names: Sequence[str]) -> MultiboxLoss:
    """Build the loss on the model's default boxes; ``ValueError`` for the weight of a class that is not there."""
    loss, names = config.loss, ["background", *class_names]
    weights = loss.class_weights or {}
    for name in weights:
        if name not in names:
            raise ValueError(f"loss.class_weights: {unknown_name('class', name, names)}")
    return MultiboxLoss(
        model.default_boxes,
        iou_threshold=loss.iou_threshold,
        negative_ratio=loss.negative_ratio,
        focal=None if loss.focal is None else (loss.focal.gamma, loss.focal.alpha),
        class_weights=torch.tensor([weights.get(name, 1.0) for name in names]) if weights else None,
    )


def build_post_process(config: Config, model: SSD) -> PostProcess:
    """Build the post-processing on the model's default boxes."""
    return PostProcess(model.default_boxes, **vars(config.post_process))


def build_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """Build the optimizer with the config's three groups."""
    o = config.optimizer
    return make_optimizer(
        model,
        name=o.name,
        lr=o.lr,
        momentum=o.momentum,
        weight_decay=o.weight_decay,
        norm_names=norm_parameters(model),
        norms=GroupRule(o.norms.lr_factor, o.norms.weight_decay),
        biases=GroupRule(o.biases.lr_factor, o.biases.weight_decay),
        fused=config.training.clip_grad_norm is None or config.training.precision == "32-true",
    )


def build_training(
    config: Config,
    model: SSD,
    *,
    train_set: DetectionDataset,
    test_set: DetectionDataset,
    validation_set: DetectionDataset | None = None,
) -> TrainingModule:
    """Build the Lightning module of one training from a settled config, see :func:`ssdnorm.settle.settle`."""
    training, runtime, o = config.training, config.runtime, config.optimizer
    check_statistics(config, model)
    warn_dropout_before_batch_norm(model.features.in_data_order())  # type: ignore[operator]
    fill = [round(255 * v) for v in model.image_mean.tolist()]
    transform = TrainTransform(model.image_size, fill=fill, **vars(config.augment))
    if runtime.cache_images is not None:
        train_set = CachedDataset(
            train_set, budget_mib=runtime.cache_images, image_size=model.image_size, where="runtime.cache_images"
        )
    make_train = partial(
        make_train_loader,
        train_set,
        transform,
        batch_size=training.batch_images,
        num_batches=training.num_steps * training.accumulate,
        seed=training.seed,
        num_workers=runtime.num_workers,
    )
    return TrainingModule(
        model,
        build_loss(config, model, train_set.class_names),
        build_post_process(config, model),
        make_optimizer=partial(build_optimizer, config),
        lr_factor=lr_schedule(
            warmup_steps=int(o.warmup_steps),
            warmup_factor=o.warmup_factor,
            lr_drops=[int(step) for step in o.lr_drops],
            lr_drop_factor=o.lr_drop_factor,
            cosine_until=training.max_steps if o.schedule == "cosine" else None,
        ),
        test=_evaluation_set("test", config, model, test_set),
        validation=None if validation_set is None else _evaluation_set("validation", config, model, validation_set),
        image_names=train_set.image_name,
        make_train_loader=make_train,
        seed=training.seed,
        accumulate=training.accumulate,
        log_every=runtime.log_every,
        compile_model=config.model.compile,
        population=_population(config, model, make_train),
        batch_may_change=runtime.batch_may_change,
    )


def _evaluation_set(name: str, config: Config, model: SSD, dataset: DetectionDataset) -> EvaluationSet:
    if len(dataset) < (processes := num_processes(config)):
        raise ValueError(f"runtime.devices: {processes} devices are more than the {len(dataset)} images of data.{name}")
    loader = partial(
        make_eval_loader,
        dataset,
        EvalTransform(model.image_size),
        batch_size=config.training.batch_images,
        num_workers=config.runtime.num_workers,
    )
    return EvaluationSet(name, dataset.ground_truth, loader)


def _population(config: Config, model: nn.Module, make_train: partial[DataLoader]) -> PopulationImages | None:
    num_images = config.training.population_images
    if num_images is None:
        return None
    if not running_statistics(model):
        log.warning("training.population_images: this model has no batch norm with running statistics to recompute")
        return None
    return PopulationImages(
        # Module.forward bypasses torch.compile, whose graphs do not run the hooks that collect the statistics
        partial(recompute_population_stats, forward=lambda model, batch: model.forward(batch)),
        partial(make_train, num_batches=-(-num_images // config.training.batch_images)),
        num_images,
    )


def loop_settings(config: Config, images_per_epoch: int) -> LoopSettings:
    """The engine's settings from ``training`` and ``runtime``."""
    values = {**vars(config.training), **vars(config.runtime), "images_per_epoch": images_per_epoch}
    values["num_processes"] = num_processes(config)
    values["shown"] = config.model_dump(exclude={"runtime"})
    return LoopSettings(**{field.name: values[field.name] for field in fields(LoopSettings)})
