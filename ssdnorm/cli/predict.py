"""Detect objects in pictures and videos.

examples:
  ssdnorm predict --checkpoint runs/x/checkpoints/model.safetensors --output out photo.jpg photos/ '*.png'
  ssdnorm predict --onnx model.onnx --output out clip.mp4 --max-frames 100

Takes pictures, folders, patterns, video files, and the number of a camera. Draws boxes, names and scores, and
lists them in detections.json. The checkpoint may be another system's; --onnx runs an exported file instead.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdnorm.cli.checks import (
    add_allow_norm,
    check_no_extra_arguments,
    parse_device,
    parse_threshold,
    stored_thresholds,
)

if TYPE_CHECKING:
    from ssdnorm.cli.frames import Frame
    from ssdnorm.cli.predict_pipeline import Predictor, Rows

_BATCH_SIZE = 8
_NOT_WITH_ONNX = {
    "device": "onnxruntime chooses the device of an ONNX file; omit --device",
    "mc-dropout": "an ONNX file has no dropout; give --checkpoint",
    "compile": "an ONNX file is compiled already; give --checkpoint",
    "allow-norm": "an ONNX file names no classes; give --checkpoint",
    "precision": "an ONNX file has its own; give --checkpoint",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", help="pictures, folders of pictures, patterns, videos, or a camera's number"
    )
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--checkpoint", type=Path, help="model.safetensors of a run, or another SSD's file")
    weights.add_argument("--onnx", type=Path, help="a file written by ssdnorm export")
    add_allow_norm(parser)
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures and detections.json")
    parser.add_argument(
        "--threshold",
        "--score-threshold",
        dest="threshold",
        type=parse_threshold,
        default=0.4,
        metavar="SCORE",
        help="draw and list detections above it (0.4); best: by class, where F1 was highest in an evaluation",
    )
    parser.add_argument(
        "--labels", metavar="FORMATS", help="also write coco.json, voc/*.xml, yolo/*.txt: some of coco,voc,yolo"
    )
    parser.add_argument("--batch-size", type=int, help=f"frames through the network at once ({_BATCH_SIZE}; camera: 1)")
    parser.add_argument(
        "--precision",
        choices=("32-true", "bf16-mixed", "auto"),
        help="of the network (32-true); auto measures whether bf16-mixed is faster here",
    )
    parser.add_argument("--mc-dropout", type=int, metavar="N", help="average N passes with dropout; list score_std")
    parser.add_argument("--compile", action="store_true", help="compile the network: slow to start, then faster")
    parser.add_argument("--max-frames", type=int, help="per video or camera; default: all, until Ctrl-C")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 …; default: cuda if available")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Detect in batches, draw and list in the order of the frames."""
    check_no_extra_arguments(rest)
    if arguments.threshold != "best" and not 0 <= arguments.threshold < 1:
        raise ValueError(f"--threshold: must lie in [0, 1); got {arguments.threshold}")
    for option in ("max_frames", "mc_dropout", "batch_size"):
        if (value := getattr(arguments, option)) is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')}: must be 1 or more; got {value}")

    # imported here, so that --help does not wait for them
    from tqdm import tqdm

    from ssdnorm.cli.frames import find_sources, is_video
    from ssdnorm.cli.label_files import check_labels, write_labels
    from ssdnorm.files import write_json

    sources = find_sources(arguments.images)
    formats = check_labels(arguments.labels, sources)
    predictor = _onnx_predictor(arguments) if arguments.onnx is not None else _predictor(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    unreadable: list[str] = []
    seconds, start = 0.0, time.perf_counter()
    total = None if any(map(is_video, sources)) else len(sources)
    with tqdm(total=total, desc="predict", unit="image", disable=not sys.stderr.isatty()) as bar:
        # pictures that follow each other go through together, each video and camera by itself
        groups = groupby(enumerate(sources), key=lambda item: item[0] if is_video(item[1]) else -1)
        for _, group in groups:
            seconds += _detect_group(arguments, predictor, dict(group), entries, unreadable, bar)
    for message in unreadable:
        print(f"not read: {message}", file=sys.stderr)
    if not entries:
        raise ValueError("no picture could be read")
    write_json(arguments.output / "detections.json", entries)
    labels = write_labels(arguments.output, formats, entries, predictor.class_names)
    num_objects, elapsed = sum(len(entry["detections"]) for entry in entries), time.perf_counter() - start
    latency, rate = 1000 * seconds / len(entries), len(entries) / elapsed
    said = f"{len(entries)} images, {num_objects} objects, mean latency {latency:.0f} ms, {rate:.3g} images/s"
    print(f"{said}; {', '.join(map(str, [arguments.output, *labels]))}")


def _detect_group(
    arguments: argparse.Namespace,
    predictor: Predictor,
    group: dict[int, Path | int],
    entries: list[dict[str, Any]],
    unreadable: list[str],
    bar: Any,
) -> float:
    """Detect in pictures, or in one video or camera; returns the seconds spent on detecting."""
    import cv2
    import numpy as np
    from PIL import Image

    from ssdnorm.cli.frames import is_video, new_video
    from ssdnorm.cli.predict_pipeline import Pipeline
    from ssdnorm.files import shortened
    from ssdnorm.plots.boxes import save_picture

    source = next(iter(group.values()))
    of_video, of_camera = is_video(source), isinstance(source, int)
    paths = {}  # of the pictures or the video, by source
    for i, each in group.items():
        stem = each.stem if isinstance(each, Path) else f"camera{each}"
        name = str(each) if isinstance(each, Path) else f"camera {each}"
        paths[name] = arguments.output / f"{i:05d}_{shortened(stem, 200)}.{'mp4' if of_video else 'jpg'}"

    def draw(frame: Frame, rows: Rows) -> Image.Image:
        picture = _draw(frame, rows, predictor.class_names)
        if not of_video:
            save_picture(picture, paths[frame.source])
        return picture

    batch_size = arguments.batch_size or (1 if of_camera else _BATCH_SIZE)
    pipeline = Pipeline(predictor, draw, batch_size, unreadable)
    video: cv2.VideoWriter | None = None
    with contextlib.ExitStack() as stack:
        try:
            for frame, rows, picture in pipeline.run(group.values(), limit=arguments.max_frames):
                if of_video:
                    video = video or stack.enter_context(new_video(paths[frame.source], frame))
                    video.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
                entries.append(_entry(frame, paths[frame.source].name, rows, predictor.class_names))
                bar.update()
        except KeyboardInterrupt:
            if not of_camera:  # Ctrl-C ends a camera, but not the command
                raise
    return pipeline.seconds


def _predictor(arguments: argparse.Namespace) -> Predictor:
    import torch
    from torch import Tensor

    from ssdnorm.cli.predict_pipeline import Predictor
    from ssdnorm.detector import compile_for_inference, load_detector
    from ssdnorm.engine.precision import choose_precision
    from ssdnorm.models.mc_dropout import mc_dropout_detections
    from ssdnorm.structures import Detections

    device = parse_device(arguments.device)
    if arguments.compile and arguments.mc_dropout is not None:
        raise ValueError("--compile: does not go with --mc-dropout, whose dropout stays random")
    detector = load_detector(arguments.checkpoint, fold=True, custom_norms=arguments.allow_norm)
    thresholds = _thresholds(arguments, detector.thresholds, detector.class_names, arguments.checkpoint)
    prepare = detector.prepare  # on the CPU, where the threads are
    detector.post_process.score_threshold = float(thresholds[1:].min())
    precision = arguments.precision or "32-true"
    if precision == "auto":
        precision = choose_precision(device.type)
    reduced = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16-mixed")
    detector = detector.to(device)
    batch_size = arguments.batch_size or _BATCH_SIZE
    if arguments.compile:
        height, width = prepare([torch.zeros(3, 8, 8, dtype=torch.uint8)])[0].shape[-2:]
        example, _ = prepare([torch.zeros(3, height, width, dtype=torch.uint8)] * batch_size)
        with reduced:
            compile_for_inference(detector.model, example.to(device))

    def detect(images: Tensor, sizes: Tensor) -> list[Detections]:
        number = len(images)
        if arguments.compile and number < batch_size:  # another shape would be compiled anew
            images, sizes = (x[torch.arange(batch_size).clamp(max=number - 1)] for x in (images, sizes))
        images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
        sizes = sizes.to(device, non_blocking=True)
        with reduced:
            if arguments.mc_dropout is not None:
                model, post_process = detector.model, detector.post_process
                return [*mc_dropout_detections(model, post_process, images, sizes, arguments.mc_dropout)]
            output = detector.model(images)
        found: list[Detections] = detector.post_process(output, sizes)
        return found[:number]

    return Predictor(lambda image: prepare([image]), detect, detector.class_names, thresholds)


def _onnx_predictor(arguments: argparse.Namespace) -> Predictor:
    import torch
    from torch import Tensor

    from ssdnorm.cli.predict_pipeline import Predictor
    from ssdnorm.models.onnx_detector import OnnxDetector
    from ssdnorm.resize import height_and_width, resize_image

    for option, reason in _NOT_WITH_ONNX.items():
        if getattr(arguments, option.replace("-", "_")):
            raise ValueError(f"--{option}: {reason}")
    onnx = OnnxDetector(arguments.onnx)
    thresholds = _thresholds(arguments, onnx.thresholds, onnx.class_names, arguments.onnx)
    lowest = float(thresholds[1:].min())
    if onnx.output == "raw":
        onnx.post_process.score_threshold = lowest
    elif lowest < (inside := onnx.post_process.score_threshold):
        raise ValueError(f"--threshold: the detections inside of {arguments.onnx} begin at {inside:g}")

    def prepare(image: Tensor) -> tuple[Tensor, Tensor]:
        resized = resize_image(image, *height_and_width(onnx.image_size), antialias=onnx.antialias)
        return resized[None], torch.tensor([image.shape[-2:]])

    return Predictor(prepare, onnx, onnx.class_names, thresholds)


def _thresholds(arguments: argparse.Namespace, stored: Any, class_names: Sequence[str], where: Path) -> Any:
    """By label, background first: those stored in the file with ``best``, else one for all."""
    import torch

    if arguments.threshold == "best":
        return torch.tensor([0.0, *stored_thresholds(stored, class_names, where)], dtype=torch.float64)
    return torch.full((1 + len(class_names),), arguments.threshold, dtype=torch.float64)


def _draw(frame: Frame, rows: Rows, class_names: Sequence[str]) -> Any:
    from ssdnorm.plots.boxes import draw_boxes

    labels, scores = rows["labels"], rows["scores"]
    captions = [f"{class_names[label - 1]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    return draw_boxes(frame.pixels, rows["boxes"], captions, labels)


def _entry(frame: Frame, name: str, rows: Rows, class_names: Sequence[str]) -> dict[str, Any]:
    """One frame's entry in detections.json; boxes as x, y, width, height in pixels."""
    found: list[dict[str, Any]] = [
        {"class": class_names[label - 1], "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for (x1, y1, x2, y2), score, label in zip(rows["boxes"], rows["scores"], rows["labels"], strict=True)
    ]
    for entry, score_std in zip(found, rows.get("score_std", ()), strict=False):  # with --mc-dropout only
        entry["score_std"] = score_std
    number = {} if frame.number is None else {"frame": frame.number}
    height, width = frame.pixels.shape[:2]
    size = {"width": width, "height": height}
    return {"file_name": frame.source, **number, **size, "picture": name, "detections": found}
