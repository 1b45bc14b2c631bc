"""Evaluate a data set: run a model over it on any devices, and turn detections into COCO's and VOC's numbers."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ssdnorm.coco_format import result_rows
from ssdnorm.engine.precision import choose_precision
from ssdnorm.messages import quiet_loggers, unknown_name
from ssdnorm.metrics.coco import CocoResult, check_options, evaluate_coco
from ssdnorm.metrics.precision_recall import score_text
from ssdnorm.metrics.voc import VocResult, evaluate_voc
from ssdnorm.structures import Batch, Detections
from ssdnorm.tables import DetectionTable, GroundTruth

log = logging.getLogger("ssdnorm.engine")

METRICS = ("coco", "voc07", "voc")
_INTERPOLATIONS = {"voc07": ("VOC07", "11-point"), "voc": ("VOC", "all-point")}


@dataclass(frozen=True)
class EvaluationOptions:
    """Which numbers to compute.

    Args:
        metrics: some of coco, voc07 (11-point) and voc (all-point).
        backend, iou_thresholds, max_detections: of COCO's metric, as in ``evaluate_coco``.
        voc_iou: IoU from which VOC's metrics count a detection as a hit.

    Raises:
        ValueError: for a name or number that is not allowed.
    """

    metrics: tuple[str, ...] = METRICS
    backend: str = "ssdnorm"
    iou_thresholds: tuple[float, ...] | None = None
    max_detections: tuple[int, ...] = (1, 10, 100)
    voc_iou: float = 0.5

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise ValueError(f"metric: {unknown_name('metric', name, METRICS)}")
        if not self.metrics:
            raise ValueError(f"metric: none is asked for; choose some of: {', '.join(METRICS)}")
        check_options(self.backend, self.iou_thresholds, self.max_detections)
        if not 0 < self.voc_iou <= 1:
            raise ValueError(f"voc_iou: got {self.voc_iou}, allowed: a number above 0, up to 1")


@dataclass(frozen=True)
class EvaluationResult:
    """Numbers of one evaluation.

    Attributes:
        metrics: COCO's twelve (AP … ARl), VOC07 (11-point mAP) and VOC (all-point mAP), in [0, 1]; those asked for.
        per_class: COCO's AP, AP50, AP75, AR and the VOC APs by class name.
        table: the numbers as text.
        truth, found: what was evaluated.
        coco: the full result of COCO's metric, with the matches for intervals and error analysis.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    table: str
    truth: GroundTruth
    found: DetectionTable
    coco: CocoResult | None

    @property
    def detections(self) -> list[dict[str, Any]]:
        """The detections in COCO's result format, for ``detections.json``."""
        return result_rows(self.truth, self.found)


def evaluate_tables(
    truth: GroundTruth, found: DetectionTable, options: EvaluationOptions | None = None
) -> EvaluationResult:
    """Evaluate detections of a whole data set; ``ImportError`` where the backend's package is not installed."""
    options = options or EvaluationOptions()
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {name: {} for name in truth.class_names}
    tables, coco = [], None
    if "coco" in options.metrics:
        coco = evaluate_coco(
            truth,
            found,
            backend=options.backend,
            iou_thresholds=options.iou_thresholds,
            max_detections=options.max_detections,
        )
        metrics |= coco.metrics
        for name, row in coco.per_class.items():
            per_class[name] |= row
        tables.append(coco.table())
        if count := int(truth.difficult.sum()):
            tables[-1] += f"\n\n{count} difficult objects count like others here; VOC's metric ignores them"
    voc = {}
    for metric, (key, interpolation) in _INTERPOLATIONS.items():
        if metric in options.metrics:
            voc[key] = evaluate_voc(truth, found, iou_threshold=options.voc_iou, interpolation=interpolation)
            metrics[key] = voc[key].metrics["mAP"]
            for name, row in voc[key].per_class.items():
                per_class[name][key] = row["AP"]
    if voc:
        tables.append(_voc_table(voc))
    return EvaluationResult(metrics, per_class, "\n\n".join(tables), truth, found, coco)


def evaluate_detections(truth: GroundTruth, found: Mapping[int, Detections]) -> EvaluationResult:
    """All numbers of detections by place in the data set; ``ValueError`` where images are missing in ``found``."""
    if len(found) != truth.num_images:
        raise ValueError(f"evaluation: detections for {len(found)} of the {truth.num_images} images of the data set")
    return evaluate_tables(truth, DetectionTable.from_images(found))


def predict_dataset(
    model: nn.Module,
    post_process: nn.Module,
    make_loader: Callable[..., Iterable[Batch]],
    *,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int | str = "auto",
    num_nodes: int = 1,
) -> dict[int, Detections]:
    """Run a model and its post-processing over a data set; no training module is needed.

    On several devices every process gets the detections of all of them, each image once; ``is_main_process`` then tells
    which of them reports. As in training, further processes on this machine are started from the command line.

    Args:
        model: images ``(B, 3, H, W)`` → raw output. Left in evaluation mode on the device.
        post_process: raw output, sizes → detections.
        make_loader: ``rank, world_size`` → batches, every image once.
        precision: ``32-true``, ``bf16-mixed``, ``16-mixed`` (32-true on a CPU, with a warning) or ``auto``.
        accelerator, devices, num_nodes: as in the config's ``runtime``.

    Returns:
        Detections by place in the data set, on the CPU.

    Raises:
        ValueError: for devices that are not here.
    """
    from lightning_fabric import Fabric  # a second of import that evaluating files does not need

    if precision == "auto":
        precision = choose_precision(accelerator)
    if precision == "16-mixed" and (accelerator == "cpu" or not torch.accelerator.is_available()):
        log.warning("training.precision: 16-mixed needs a GPU; this is evaluated in 32-true")
        precision = "32-true"
    with quiet_lightning():
        try:
            fabric = Fabric(
                accelerator=accelerator,
                devices=devices,
                num_nodes=num_nodes,
                precision=precision,  # type: ignore[arg-type]
            )
        except (RuntimeError, TypeError, ImportError, ValueError) as error:  # Fabric raises all four
            got = f"accelerator {accelerator!r}, devices {devices!r}"
            raise ValueError(f"runtime: {got}: {' '.join(str(error).split())}") from error
        if fabric.device.type == "mps":
            raise ValueError("runtime.accelerator: Apple's GPUs have no float64, which suppressing overlaps takes")
        fabric.launch()
    model.eval().to(fabric.device).to(memory_format=torch.channels_last)
    post_process.eval().to(fabric.device)
    batches = make_loader(rank=fabric.global_rank, world_size=fabric.world_size)
    shown = sys.stderr.isatty() and fabric.global_rank == 0
    found: dict[int, Detections] = {}
    with torch.inference_mode(), fabric.autocast():
        for batch in tqdm(batches, desc="evaluate", unit="batch", disable=not shown):
            batch = batch.to(fabric.device, non_blocking=True)
            images = batch.images.contiguous(memory_format=torch.channels_last)
            found |= by_place(post_process(model(images), batch.sizes), batch.indices.tolist())
    if fabric.world_size == 1:
        return found
    parts: list[dict[int, Detections]] = [{}] * fabric.world_size
    torch.distributed.all_gather_object(parts, found)
    return {place: detections for part in parts for place, detections in part.items()}


def by_place(detections: list[Detections], places: list[int]) -> dict[int, Detections]:
    """The detections of a batch on the CPU, by the images' places in the data set; three copies per batch."""
    counts = [len(found["scores"]) for found in detections]
    boxes, scores, labels = (
        torch.cat([found[key] for found in detections]).cpu().split(counts) for key in ("boxes", "scores", "labels")
    )
    return {place: Detections(boxes=boxes[i], scores=scores[i], labels=labels[i]) for i, place in enumerate(places)}


def is_main_process() -> bool:
    """Whether this process reports: the only one, or the first of several."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def _voc_table(results: Mapping[str, VocResult]) -> str:
    """Means and APs by class, a column for each interpolation."""
    first = next(iter(results.values()))
    means = ", ".join(
        f"{result.interpolation} mAP {score_text(result.metrics['mAP'], 4)}" for result in results.values()
    )
    width = max([len(name) for name in first.per_class] + [5])
    heads = "".join(f" {result.interpolation:>10}" for result in results.values())
    lines = [f"VOC metric (IoU {first.iou_threshold:g}, difficult objects ignored)", f"  {means}", ""]
    lines.append(f"  {'class':<{width}} {'objects':>8} {'detections':>11}{heads}")
    for name, row in first.per_class.items():
        aps = "".join(f" {score_text(result.per_class[name]['AP'], 4):>10}" for result in results.values())
        lines.append(f"  {name:<{width}} {row['objects']:>8.0f} {row['detections']:>11.0f}{aps}")
    return "\n".join(lines)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Suppress Lightning's tips, and its warnings about what is intended here."""
    with warnings.catch_warnings(), quiet_loggers(logging.WARNING, "pytorch_lightning", "lightning_fabric"):
        for text in (
            "does not have many workers",
            "isn't accessible",
            "The number of training batches",
            "You're resuming from a checkpoint that ended before the epoch ended",
            "IterableDataset",
            "You defined a `validation_step` but have no `val_dataloader`",
            "The `srun` command is available",
            r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        ):
            warnings.filterwarnings("ignore", f".*{text}")
        yield
