"""Run an exported ONNX file; it gives the same detections as the checkpoint."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.boxes.default_boxes import default_box_spec, make_default_boxes
from ssdnorm.models.export import FORMAT
from ssdnorm.models.post_process import PostProcess
from ssdnorm.structures import Detections, SSDOutput


class OnnxDetector:
    """An ONNX file written by ``export_onnx``, run by onnxruntime.

    Args:
        path: the file; its metadata hold all that it needs beside the images.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not an ONNX file, not one of ours, or onnxruntime is missing.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such ONNX file")
        try:
            runtime = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise ValueError(f"{path}: the package onnxruntime is missing; pip install 'ssdnorm[onnx]'") from error
        try:
            self.session = runtime.InferenceSession(str(path), providers=runtime.get_available_providers())
        except Exception as error:  # onnxruntime's own classes
            raise ValueError(f"{path}: not a readable ONNX file, or cut off ({type(error).__name__})") from error
        about = self.session.get_modelmeta().custom_metadata_map
        if about.get("format") != FORMAT:
            raise ValueError(f"{path}: not exported by ssdnorm (format {about.get('format')!r}, expected {FORMAT!r})")
        self.class_names: tuple[str, ...] = tuple(json.loads(about["class_names"]))
        self.image_size: int | list[int] = json.loads(about["image_size"])
        self.antialias: bool = json.loads(about["antialias"])
        self.input_dtype: str = json.loads(about["input"])["dtype"]
        self.output: str = about["output"]
        self.thresholds: dict[str, float] | None = json.loads(about.get("thresholds", "null"))
        settings: dict[str, Any] = json.loads(about["post_process"])
        boxes = make_default_boxes(default_box_spec(json.loads(about["default_boxes"])))
        self.post_process = PostProcess(boxes, coder=BoxCoder(tuple(json.loads(about["variances"]))), **settings)

    def __call__(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Detections of a batch, best score first.

        Shape:
            images ``(B, 3, H, W)`` RGB, uint8 or floats in [0, 1]; sizes ``(B, 2)``, height and width of the original
            images in pixels, whose pixels the boxes are in.
        """
        outputs = self.run(images)
        if self.output == "raw":
            return self.post_process(SSDOutput(*outputs), sizes)
        boxes, scores, labels, counts = outputs
        scale = sizes.to(boxes)[:, None, [1, 0, 1, 0]]
        return [
            Detections(boxes=b[:n], scores=s[:n], labels=c[:n])
            for b, s, c, n in zip(boxes * scale, scores, labels, counts.tolist(), strict=True)
        ]

    def run(self, images: Tensor) -> list[Tensor]:
        """The outputs of the file's graph. Shape of images as above."""
        if self.input_dtype == "uint8":
            images = images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
        else:
            images = images / 255 if images.dtype == torch.uint8 else images
        return [torch.from_numpy(array) for array in self.session.run(None, {"images": images.cpu().numpy()})]
