"""Export a network, with or without its post-processing, as one ONNX or torch.export file."""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torchvision.ops import nms

from ssdnorm.files import write_bytes
from ssdnorm.messages import quiet_loggers
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.ssd import SSD
from ssdnorm.resize import height_and_width
from ssdnorm.structures import SSDOutput

FORMAT = "ssdnorm export 1"
OPSET = 18
RAW_NAMES = ("locs", "logits")
DETECTION_NAMES = ("boxes", "scores", "labels", "num_detections")


class FixedPostProcess(nn.Module):
    """:class:`PostProcess` with fixed shapes, which exporters can follow; the same detections.

    ``PostProcess`` chooses its candidates by their values; an exported graph depends on shapes only. Here the ``top_k``
    best scores of each class all enter the suppression.

    Shape:
        input locs ``(B, K, 4)``, logits ``(B, K, num_classes)``; output boxes ``(B, D, 4)`` xyxy in [0, 1] of the
        image, scores ``(B, D)``, labels ``(B, D)`` int64, best first, and num_detections ``(B,)`` int64. Rows from
        num_detections on are zeros.

    Args:
        class_thresholds: lowest score of each class, exclusive, beside the one of ``post_process``.
    """

    class_thresholds: Tensor | None

    def __init__(self, post_process: PostProcess, class_thresholds: Sequence[float] | None = None) -> None:
        super().__init__()
        self.settings = post_process
        thresholds = None if class_thresholds is None else torch.tensor(class_thresholds)
        self.register_buffer("class_thresholds", thresholds)

    def forward(self, output: SSDOutput) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detections of each image, padded to D rows."""
        settings = self.settings
        boxes = settings.coder.decode(output.locs, settings.default_boxes).clamp(0.0, 1.0)
        top_k = min(settings.top_k, boxes.shape[1])
        num_images, num_classes = output.logits.shape[0], output.logits.shape[2] - 1
        scores = output.logits.softmax(dim=-1)[..., 1:].transpose(1, 2)  # (B, C, K)
        if self.class_thresholds is not None:
            scores = torch.where(scores > self.class_thresholds[:, None], scores, 0.0)
        scores, places = scores.topk(top_k, dim=2)
        candidates = boxes[:, None].expand(-1, num_classes, -1, -1)
        candidates = candidates.gather(2, places[..., None].expand(-1, -1, -1, 4)).flatten(0, 1)
        scores = scores.flatten(0, 1)
        kept = torch.ops.ssdnorm.nms_mask(candidates, scores, settings.nms_threshold, settings.score_threshold)
        scores = torch.where(kept, scores, 0.0).reshape(num_images, num_classes * top_k)
        scores, best = scores.topk(min(settings.max_detections, num_classes * top_k), dim=1)
        found = scores > 0
        boxes = candidates.reshape(num_images, num_classes * top_k, 4)
        boxes = boxes.gather(1, best[..., None].expand(-1, -1, 4)) * found[..., None]
        return boxes, scores, (best // top_k + 1) * found, found.sum(dim=1)


class ExportedNetwork(nn.Module):
    """Images → raw output or detections, as plain tuples of tensors, and what an exported file says of them.

    Args:
        model: in evaluation mode.
        post_process: part of the graph with ``detections``, otherwise its settings are metadata only.
        antialias: whether images are resized with antialiasing.
        detections: decode and suppress in the graph, as :class:`FixedPostProcess`; otherwise the output is raw.
        input_dtype: RGB as uint8, or as floats in [0, 1].
        thresholds: the score to ask for by class name, for the metadata.
        class_thresholds: lowest score of each class, applied in the graph with ``detections``.

    Shape:
        images ``(B, 3, H, W)``; outputs as of ``SSD`` or of :class:`FixedPostProcess`.

    Raises:
        ValueError: the model is in training mode, or another ``input_dtype``.
    """

    def __init__(
        self,
        model: SSD,
        post_process: PostProcess,
        *,
        class_names: Sequence[str],
        antialias: bool = True,
        detections: bool = False,
        input_dtype: Literal["uint8", "float32"] = "uint8",
        thresholds: Mapping[str, float] | None = None,
        class_thresholds: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if input_dtype not in ("uint8", "float32"):
            raise ValueError(f"input_dtype: must be uint8 or float32; got {input_dtype!r}")
        if model.training:
            raise ValueError("export: the model is in training mode; call .eval() first")
        self.model = model
        self.post_process = FixedPostProcess(post_process, class_thresholds) if detections else None
        self.output_names = DETECTION_NAMES if detections else RAW_NAMES
        self.image_shape = (3, *height_and_width(model.image_size))
        self.input_dtype = input_dtype
        settings = ("score_threshold", "nms_threshold", "top_k", "max_detections")
        pixels = [0, 255 if input_dtype == "uint8" else 1]
        about = {
            "format": FORMAT,
            "class_names": list(class_names),
            "image_size": model.image_size,
            "input": {"name": "images", "dtype": input_dtype, "colours": "RGB", "range": pixels},
            "antialias": antialias,
            "output": "detections" if detections else "raw",
            "default_boxes": asdict(model.spec),
            "variances": list(post_process.coder.variances),
            "post_process": {name: getattr(post_process, name) for name in settings},
            **({} if thresholds is None else {"thresholds": dict(thresholds)}),
        }
        self.metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
        self.to(model.image_mean.device).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        output: SSDOutput = self.model(images)
        return tuple(output) if self.post_process is None else self.post_process(output)


def export_onnx(network: ExportedNetwork, path: Path, *, opset: int = OPSET) -> None:
    """Write a network as one ONNX file for any batch size.

    Its metadata hold class names, thresholds, image size, default boxes and how images are resized; mean and std are
    part of the graph.

    Args:
        opset: of ONNX, 18 or more.

    Raises:
        ValueError: if the onnx packages are missing, or for an opset that is too low or unknown.
    """
    if opset < OPSET:
        raise ValueError(f"opset: must be {OPSET} or more; got {opset}")
    _, onnxscript = (import_onnx_package(package, where="export") for package in ("onnx", "onnxscript"))
    operators = getattr(onnxscript, f"opset{opset}", None)
    if operators is None:
        raise ValueError(f"opset: the installed onnxscript does not know {opset}; choose a lower one, from {OPSET}")
    program = _program(network)
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=["images"],
            output_names=list(network.output_names),
            custom_translation_table={torch.ops.ssdnorm.nms_mask.default: _onnx_nms_mask(operators)},
        )
    assert exported is not None
    proto = exported.model_proto
    for key, value in network.metadata.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    write_bytes(path, proto.SerializeToString())


def export_torch(network: ExportedNetwork, path: Path) -> None:
    """Write a network as a torch.export program (``.pt2``) for any batch size.

    The metadata are in the extra file ``ssdnorm.json``. A file with ``detections`` needs the operator
    ``ssdnorm::nms_mask``: ``import ssdnorm.models.export`` before loading it.
    """
    program = _program(network)
    memory = io.BytesIO()  # on a full disk torch would end the process
    with _quiet():
        torch.export.save(program, memory, extra_files={"ssdnorm.json": json.dumps(network.metadata)})
    write_bytes(path, memory.getbuffer())


@torch.library.custom_op("ssdnorm::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    """Which boxes survive, group by group: a score above the threshold, and no better one that overlaps more.

    Shape:
        boxes ``(N, P, 4)`` xyxy; scores ``(N, P)``; output ``(N, P)`` bool.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for group in range(boxes.shape[0]):
        places = (scores[group] > score_threshold).nonzero().squeeze(1)
        kept[group, places[nms(boxes[group, places], scores[group, places], iou_threshold)]] = True
    return kept


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def _onnx_nms_mask(op: Any) -> Callable[..., Any]:
    """``nms_mask`` by ONNX's operators ``op``: NonMaxSuppression, its list of survivors written into a mask."""

    def translate(boxes: Any, scores: Any, iou_threshold: float, score_threshold: float) -> Any:
        one_class = op.Unsqueeze(scores, op.Constant(value_ints=[1]))  # (N, 1, P)
        survivors = op.NonMaxSuppression(
            boxes,
            one_class,
            op.Gather(op.Shape(scores), op.Constant(value_ints=[1])),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[score_threshold]),
        )
        places = op.Gather(survivors, op.Constant(value_ints=[0, 2]), axis=1)  # of group, class, box
        ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(places), [0], [1]))
        zeros = op.Mul(scores, op.Constant(value_float=0.0))
        return op.Cast(op.ScatterND(zeros, places, ones), to=9)  # BOOL

    return translate


def _program(network: ExportedNetwork) -> ExportedProgram:
    """The network traced for any batch size, from a batch of two: one would be taken for a constant."""
    dtype, device = getattr(torch, network.input_dtype), network.model.image_mean.device
    images = torch.zeros((2, *network.image_shape), dtype=dtype, device=device)
    with _quiet(), torch.no_grad():
        return torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def import_onnx_package(package: str, *, where: str) -> Any:
    """Import one of the packages that ONNX files need; ``ValueError`` if it is missing."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{where}: the package {package} is missing; pip install 'ssdnorm[onnx]'") from error


@contextmanager
def _quiet() -> Iterator[None]:
    names = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")
    with warnings.catch_warnings(), quiet_loggers(logging.ERROR, *names):
        warnings.simplefilter("ignore")
        yield
