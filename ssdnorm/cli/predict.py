"""Detect objects in pictures and videos.

examples:
  ssdnorm predict --checkpoint runs/x/checkpoints/model.safetensors --output out photo.jpg photos/ '*.png'
  ssdnorm predict --onnx model.onnx --output out clip.mp4 --max-frames 100

Takes pictures, folders, patterns, video files, and the number of a camera. Draws boxes, names and scores, and
lists them in detections.json. The checkpoint may be another system's; --onnx runs an exported file instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ssdnorm.cli.checks import add_allow_norm, check_no_extra_arguments, parse_device

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ssdnorm.cli.frames import Frame
    from ssdnorm.structures import Detections

    Detect = Callable[[Tensor], Detections]  # of one image (3, H, W) uint8, any size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "images", nargs="+", help="pictures, folders of pictures, patterns, videos, or a camera's number"
    )
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--checkpoint", type=Path, help="model.safetensors of a run, or another SSD's file")
    weights.add_argument("--onnx", type=Path, help="a file written by ssdnorm export")
    add_allow_norm(parser)
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures and detections.json")
    parser.add_argument("--score-threshold", type=float, default=0.4, help="draw and list detections above it (0.4)")
    parser.add_argument("--mc-dropout", type=int, metavar="N", help="average N passes with dropout; list score_std")
    parser.add_argument("--compile", action="store_true", help="compile the network: slow to start, then faster")
    parser.add_argument("--max-frames", type=int, help="per video or camera; default: all, until Ctrl-C")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 …; default: cuda if available")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Detect, draw and list frame by frame."""
    check_no_extra_arguments(rest)
    if not 0 <= arguments.score_threshold < 1:
        raise ValueError(f"--score-threshold: must lie in [0, 1); got {arguments.score_threshold}")
    for option in ("max_frames", "mc_dropout"):
        if (value := getattr(arguments, option)) is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')}: must be 1 or more; got {value}")

    # imported here, so that --help does not wait for them
    import cv2
    import numpy as np
    import torch
    from torch import Tensor
    from tqdm import tqdm

    from ssdnorm.cli.frames import find_sources, is_video, open_video
    from ssdnorm.files import shortened, write_json
    from ssdnorm.plots.boxes import save_picture

    sources = find_sources(arguments.images)
    detect, class_names = _onnx_detector(arguments) if arguments.onnx is not None else _detector(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    unreadable: list[str] = []
    seconds = 0.0
    total = None if any(map(is_video, sources)) else len(sources)
    with tqdm(total=total, desc="predict", unit="image", disable=not sys.stderr.isatty()) as bar:
        for i, source in enumerate(sources):
            stem = source.stem if isinstance(source, Path) else f"camera{source}"
            path = arguments.output / f"{i:05d}_{shortened(stem, 200)}.{'mp4' if is_video(source) else 'jpg'}"
            video: cv2.VideoWriter | None = None
            try:
                for frame in _readable_frames(source, arguments.max_frames, unreadable):
                    start = time.perf_counter()
                    with torch.inference_mode():
                        found = cast(dict[str, Tensor], detect(torch.from_numpy(frame.pixels).permute(2, 0, 1)))
                    above = found["scores"] > arguments.score_threshold
                    rows = {key: tensor[above].tolist() for key, tensor in found.items()}
                    seconds += time.perf_counter() - start
                    picture = _draw(frame, rows, class_names)
                    if is_video(source):
                        video = video or open_video(path, frame)
                        video.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
                    else:
                        save_picture(picture, path)
                    entries.append(_entry(frame, path.name, rows, class_names))
                    bar.update()
            except KeyboardInterrupt:
                if not isinstance(source, int):  # Ctrl-C ends a camera, but not the command
                    raise
            finally:
                if video is not None:
                    video.release()
    for message in unreadable:
        print(f"not read: {message}", file=sys.stderr)
    if not entries:
        raise ValueError("no picture could be read")
    write_json(arguments.output / "detections.json", entries)
    num_objects = sum(len(entry["detections"]) for entry in entries)
    latency = 1000 * seconds / len(entries)
    print(f"{len(entries)} images, {num_objects} objects, mean latency {latency:.0f} ms; {arguments.output}")


def _readable_frames(source: Path | int, limit: int | None, unreadable: list[str]) -> Iterator[Frame]:
    """The frames of a source; the reason for one that cannot be read is appended to ``unreadable``."""
    from ssdnorm.cli.frames import read_frames

    try:
        yield from read_frames(source, limit=limit)
    except (OSError, ValueError) as error:
        unreadable.append(str(error))


def _detector(arguments: argparse.Namespace) -> tuple[Detect, Sequence[str]]:
    import torch

    from ssdnorm.detector import compile_for_inference, load_detector
    from ssdnorm.models.mc_dropout import mc_dropout_detections
    from ssdnorm.resize import height_and_width

    device = parse_device(arguments.device)
    if arguments.compile and arguments.mc_dropout is not None:
        raise ValueError("--compile: does not go with --mc-dropout, whose dropout stays random")
    detector = load_detector(arguments.checkpoint, fold=True, custom_norms=arguments.allow_norm).to(device)
    detector.post_process.score_threshold = arguments.score_threshold
    if arguments.compile:
        size = height_and_width(detector.model.image_size)
        example, _ = detector.prepare([torch.zeros(3, *size, dtype=torch.uint8, device=device)])
        compile_for_inference(detector.model, example)

    def detect(image: Tensor) -> Detections:
        images = [image.to(device)]
        if arguments.mc_dropout is not None:
            prepared = detector.prepare(images)
            return mc_dropout_detections(detector.model, detector.post_process, *prepared, arguments.mc_dropout)[0]
        found: Detections = detector(images)[0]
        return found

    return detect, detector.class_names


def _onnx_detector(arguments: argparse.Namespace) -> tuple[Detect, Sequence[str]]:
    import torch

    from ssdnorm.models.onnx_detector import OnnxDetector
    from ssdnorm.resize import height_and_width, resize_image

    if arguments.device is not None:
        raise ValueError("--device: onnxruntime chooses the device of an ONNX file; omit --device")
    if arguments.mc_dropout is not None:
        raise ValueError("--mc-dropout: an ONNX file has no dropout; give --checkpoint")
    if arguments.compile:
        raise ValueError("--compile: an ONNX file is compiled already; give --checkpoint")
    if arguments.allow_norm:
        raise ValueError("--allow-norm: an ONNX file names no classes; give --checkpoint")
    onnx = OnnxDetector(arguments.onnx)
    if onnx.output == "raw":
        onnx.post_process.score_threshold = arguments.score_threshold
    elif arguments.score_threshold < (lowest := onnx.post_process.score_threshold):
        raise ValueError(f"--score-threshold: the detections inside of {arguments.onnx} begin at {lowest:g}")

    def detect(image: Tensor) -> Detections:
        resized = resize_image(image, *height_and_width(onnx.image_size), antialias=onnx.antialias)
        return onnx(resized[None], torch.tensor([image.shape[-2:]]))[0]

    return detect, onnx.class_names


def _draw(frame: Frame, rows: dict[str, list], class_names: Sequence[str]) -> Image.Image:
    from ssdnorm.plots.boxes import draw_boxes

    labels, scores = rows["labels"], rows["scores"]
    captions = [f"{class_names[label - 1]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    return draw_boxes(frame.pixels, rows["boxes"], captions, labels)


def _entry(frame: Frame, name: str, rows: dict[str, list], class_names: Sequence[str]) -> dict[str, Any]:
    """One frame's entry in detections.json; boxes as x, y, width, height in pixels."""
    found: list[dict[str, Any]] = [
        {"class": class_names[label - 1], "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for (x1, y1, x2, y2), score, label in zip(rows["boxes"], rows["scores"], rows["labels"], strict=True)
    ]
    for entry, score_std in zip(found, rows.get("score_std", ()), strict=False):  # with --mc-dropout only
        entry["score_std"] = score_std
    number = {} if frame.number is None else {"frame": frame.number}
    return {"file_name": frame.source, **number, "picture": name, "detections": found}
