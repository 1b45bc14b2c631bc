"""Every kind of input: its hostile cases, how it is read, and the cases that were found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import config_kinds, data_kinds, model_kinds


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        cases: makes the strategy of hostile cases, late, because some need a model.
        read: case, folder for its file → a result, or an error.
        found: makes the cases that once failed.
        number: cases of a test run; fewer where each is slow.
        needs: packages without which the kind is skipped.
    """

    cases: Callable[[], st.SearchStrategy[Any]]
    read: Callable[[Any, Path], object]
    found: Callable[[], Sequence[Any]] = list
    number: int = 100
    needs: tuple[str, ...] = field(default=())


KINDS = {
    "VOC XML": Kind(lambda: data_kinds.XML_CASES, data_kinds.read_xml, lambda: data_kinds.XML_FOUND),
    "COCO instances": Kind(lambda: data_kinds.COCO_CASES, data_kinds.read_coco, lambda: data_kinds.COCO_FOUND),
    "YOLO": Kind(data_kinds.yolo_cases, data_kinds.read_yolo, lambda: data_kinds.YOLO_FOUND),
    "COCO detections": Kind(
        lambda: data_kinds.DETECTION_CASES, data_kinds.read_detections, lambda: data_kinds.DETECTIONS_FOUND
    ),
    "VOC detections": Kind(lambda: data_kinds.COMP4_CASES, data_kinds.read_comp4),
    "images": Kind(lambda: data_kinds.IMAGE_CASES, data_kinds.read_image, lambda: data_kinds.IMAGES_FOUND),
    "config": Kind(
        lambda: config_kinds.CONFIG_CASES, config_kinds.read_config_file, lambda: config_kinds.CONFIG_FOUND, 30
    ),
    "overrides": Kind(config_kinds.overrides, config_kinds.read_overrides, lambda: config_kinds.OVERRIDES_FOUND, 30),
    "comparison": Kind(
        lambda: config_kinds.COMPARISON_CASES, config_kinds.read_comparison, lambda: config_kinds.YAML_FOUND, 20
    ),
    "run files": Kind(lambda: config_kinds.RUN_FILE_CASES, config_kinds.read_run_files),
    "checkpoint": Kind(
        model_kinds.checkpoint_cases, model_kinds.read_checkpoint_file, model_kinds.checkpoint_found, 60
    ),
    "ONNX metadata": Kind(
        model_kinds.onnx_cases, model_kinds.read_onnx, model_kinds.onnx_found, 80, needs=("onnx", "onnxruntime")
    ),
    "npz": Kind(model_kinds.npz_cases, model_kinds.read_npz, model_kinds.npz_found, 60),
    "torch file": Kind(model_kinds.torch_cases, model_kinds.read_torch, model_kinds.torch_found),
}
