"""Run an exported ONNX file; it gives the same detections as the checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ssdnorm.boxes.coder import BoxCoder
from ssdnorm.boxes.default_boxes import default_box_spec, make_default_boxes
from ssdnorm.messages import one_line, shown
from ssdnorm.models.export import DETECTION_NAMES, FORMAT, RAW_NAMES, import_onnx_package
from ssdnorm.models.metadata import read_export_metadata
from ssdnorm.models.post_process import PostProcess
from ssdnorm.models.tensor_files import readable
from ssdnorm.resize import height_and_width
from ssdnorm.structures import Detections, SSDOutput

_MOST_BOXES = 2_000_000  # an input of 4096 pixels has 1.6 million
_ONNX_TYPES = {"uint8": "uint8", "float32": "float"}


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
        runtime = import_onnx_package("onnxruntime", where=str(path))
        providers = [name for name in runtime.get_available_providers() if name != "AzureExecutionProvider"]  # remote
        with readable(path, "ONNX file"):
            self.session = runtime.InferenceSession(str(path), providers=providers)
        try:
            entries = self.session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError:
            raise ValueError(f"{path}: metadata that are not text in UTF-8") from None
        if entries.get("format") != FORMAT:
            got = shown(entries.get("format"))
            raise ValueError(f"{path}: not exported by ssdnorm (format {got}, expected {FORMAT!r})")
        about = read_export_metadata(entries, where=str(path))
        self.class_names = tuple(about.class_names)
        self.image_size = about.image_size
        self.antialias = about.antialias
        self.input_dtype = about.input.dtype
        self.output = about.output
        self.thresholds = about.thresholds
        self._path = path
        try:
            spec = default_box_spec(about.default_boxes.model_dump())
        except ValueError as error:
            raise ValueError(f"{path}: metadata: default_boxes: {error}") from None
        self._check_graph(spec.num_boxes)
        coder = BoxCoder(about.variances)
        self.post_process = PostProcess(make_default_boxes(spec), coder=coder, **about.post_process.model_dump())

    def _check_graph(self, num_boxes: int) -> None:
        """Refuse a graph whose inputs and outputs are not those that the metadata describe."""
        size, num_classes = self.image_size, len(self.class_names) + 1
        if num_boxes > _MOST_BOXES:
            raise ValueError(f"{self._path}: metadata: {num_boxes:,} default boxes; at most {_MOST_BOXES:,} are made")
        expected: dict[str, list[int]] = {"images": [3, *height_and_width(size)]}
        if self.output == "raw":
            expected |= dict(zip(RAW_NAMES, ([num_boxes, 4], [num_boxes, num_classes]), strict=True))
        tensors = [*self.session.get_inputs(), *self.session.get_outputs()]
        got = {tensor.name: list(tensor.shape)[1:] for tensor in tensors}
        names = ["images", *(RAW_NAMES if self.output == "raw" else DETECTION_NAMES)]
        wrong = [name for name, shape in expected.items() if got.get(name) != shape]
        if list(got) != names or wrong or tensors[0].type != f"tensor({_ONNX_TYPES[self.input_dtype]})":
            said = ", ".join(f"{name} {shown(shape)}" for name, shape in got.items())
            raise ValueError(
                f"{self._path}: the graph has {said} ({tensors[0].type}); its metadata describe {', '.join(names)} "
                f"with {expected} ({self.input_dtype})"
            )

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
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) <= len(self.class_names):
            raise ValueError(f"{self._path}: labels outside 0 … {len(self.class_names)}, the number of class names")
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
        try:
            outputs = self.session.run(None, {"images": images.cpu().numpy()})
        except Exception as error:  # onnxruntime's own classes
            raise ValueError(f"{self._path}: the graph fails: {one_line(error)}") from error
        return [torch.from_numpy(array) for array in outputs]
