"""Detect objects in pictures: python scripts/predict.py --checkpoint model.safetensors --output out *.jpg

Takes pictures, folders, patterns, video files, and the number of a camera. Draws boxes, names and scores, and
lists them in detections.json. The checkpoint may be another system's; --onnx runs an exported file instead.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ssdnorm.cli.frames import Frame, VideoFile, count_frames, find_sources, is_video, read_frames
from ssdnorm.cli.refuse import no_more_words, usable_device
from ssdnorm.data.transforms import resize_image
from ssdnorm.detector import compile_for_inference, load_detector
from ssdnorm.engine.run import write_json
from ssdnorm.models.mc_dropout import mc_dropout_detections
from ssdnorm.models.onnx_detector import OnnxDetector
from ssdnorm.plots.boxes import draw_boxes
from ssdnorm.structures import Detections

HELP = "draw the detections of a checkpoint on pictures"

Detect = Callable[[np.ndarray], Detections]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument(
        "images", nargs="+", help="pictures, folders of pictures, patterns, videos, or a camera's number"
    )
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--checkpoint", type=Path, help="model.safetensors of a run, or another SSD's file")
    weights.add_argument("--onnx", type=Path, help="a file written by export.py")
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures and detections.json")
    parser.add_argument("--score-threshold", type=float, default=0.4, help="draw and list detections above it (0.4)")
    parser.add_argument("--mc-dropout", type=int, metavar="N", help="average N passes with dropout; list score_std")
    parser.add_argument("--compile", action="store_true", help="compile the network: minutes first, then faster")
    parser.add_argument("--max-frames", type=int, help="of each video or camera; default: all, until Ctrl-C")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 …; default: cuda where it is there")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Detect frame by frame, draw, list."""
    no_more_words(rest)
    if not 0 <= arguments.score_threshold < 1:
        raise ValueError(f"--score-threshold: must lie in [0, 1); got {arguments.score_threshold}")
    if arguments.max_frames is not None and arguments.max_frames < 1:
        raise ValueError(f"--max-frames: must be 1 or more; got {arguments.max_frames}")
    if arguments.mc_dropout is not None and arguments.mc_dropout < 1:
        raise ValueError(f"--mc-dropout: must be 1 or more; got {arguments.mc_dropout}")
    sources = find_sources(arguments.images)
    detect, class_names = _load(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    unreadable: list[str] = []
    seconds = 0.0
    total = count_frames(sources, arguments.max_frames)
    with tqdm(total=total, desc="predict", unit="image", disable=not sys.stderr.isatty()) as bar:
        for i, source in enumerate(sources):
            video: VideoFile | None = None
            try:
                for frame in _readable_frames(source, arguments.max_frames, unreadable):
                    start = time.perf_counter()
                    detections = _above(detect(frame.pixels), arguments.score_threshold)
                    seconds += time.perf_counter() - start
                    stem = source.stem if isinstance(source, Path) else f"camera{source}"
                    name = f"{i:05d}_{stem}.{'mp4' if is_video(source) else 'jpg'}"
                    if is_video(source):
                        video = video or VideoFile(arguments.output / name, frame.rate)
                    _draw(frame, detections, class_names, arguments.output / name, video)
                    found.append(_listed(frame, name, detections, class_names))
                    bar.update()
            except KeyboardInterrupt:
                if not isinstance(source, int):
                    raise
            finally:
                if video is not None:
                    video.close()
    for message in unreadable:
        print(f"not read: {message}", file=sys.stderr)
    if not found:
        raise ValueError("no picture could be read")
    write_json(arguments.output / "detections.json", found)
    num_objects = sum(len(entry["detections"]) for entry in found)
    print(
        f"{len(found)} images, {num_objects} objects, "
        f"mean latency {1000 * seconds / len(found):.0f} ms; {arguments.output}"
    )


def _readable_frames(source: Path | int, limit: int | None, unreadable: list[str]) -> Iterator[Frame]:
    """The frames of a source; why one cannot be read goes to ``unreadable``."""
    try:
        yield from read_frames(source, limit=limit)
    except (OSError, ValueError) as error:
        unreadable.append(str(error))


def _load(arguments: argparse.Namespace) -> tuple[Detect, Sequence[str]]:
    """Pixels → detections, from a checkpoint or an ONNX file, and the class names."""
    if arguments.onnx is not None:
        if arguments.device is not None:
            raise ValueError("--device: an ONNX file runs where onnxruntime runs; leave --device out")
        if arguments.mc_dropout is not None:
            raise ValueError("--mc-dropout: an ONNX file has no dropout any more; give --checkpoint")
        if arguments.compile:
            raise ValueError("--compile: an ONNX file runs compiled already; give --checkpoint")
        onnx = OnnxDetector(arguments.onnx)
        if onnx.output == "raw":
            onnx.post_process.score_threshold = arguments.score_threshold
        elif arguments.score_threshold < onnx.post_process.score_threshold:
            lowest = onnx.post_process.score_threshold
            raise ValueError(f"--score-threshold: the detections inside of {arguments.onnx} begin at {lowest:g}")
        return _detector(onnx, onnx.image_size, antialias=onnx.antialias, device=torch.device("cpu")), onnx.class_names
    device = usable_device(arguments.device)
    if arguments.compile and arguments.mc_dropout is not None:
        raise ValueError("--compile: does not go with --mc-dropout, whose dropout stays random")
    detector = load_detector(arguments.checkpoint, fold=True).to(device)
    detector.post_process.score_threshold = arguments.score_threshold
    size = detector.model.image_size
    if arguments.compile:
        dtype = torch.uint8 if detector.antialias else torch.float32  # as resize_image gives them
        example = torch.zeros(1, 3, size, size, dtype=dtype, device=device)
        compile_for_inference(detector.model, example.contiguous(memory_format=torch.channels_last))

    def both(images: Tensor, sizes: Tensor) -> Sequence[Detections]:
        if arguments.mc_dropout is not None:
            return mc_dropout_detections(detector.model, detector.post_process, images, sizes, arguments.mc_dropout)
        images = images.contiguous(memory_format=torch.channels_last)
        return detector.post_process(detector.model(images), sizes)

    return _detector(both, size, antialias=detector.antialias, device=device), detector.class_names


def _detector(
    network: Callable[[Tensor, Tensor], Sequence[Detections]], size: int, *, antialias: bool, device: torch.device
) -> Detect:
    def detect(pixels: np.ndarray) -> Detections:
        image = resize_image(pixels, size, antialias=antialias)
        with torch.inference_mode():
            (detections,) = network(image[None].to(device), torch.tensor([pixels.shape[:2]], device=device))
        return cast(Detections, {key: value.cpu() for key, value in cast(dict[str, Tensor], detections).items()})

    return detect


def _above(detections: Detections, threshold: float) -> Detections:
    kept = detections["scores"] > threshold
    return cast(Detections, {key: value[kept] for key, value in cast(dict[str, Tensor], detections).items()})


def _draw(
    frame: Frame, detections: Detections, class_names: Sequence[str], path: Path, video: VideoFile | None
) -> None:
    labels, scores = detections["labels"].tolist(), detections["scores"].tolist()
    captions = [f"{class_names[label - 1]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    picture = draw_boxes(frame.pixels, detections["boxes"], captions, labels)
    if video is None:
        picture.save(path, quality=92)
    else:
        video.add(np.asarray(picture))


def _listed(frame: Frame, name: str, detections: Detections, class_names: Sequence[str]) -> dict[str, Any]:
    place = {} if frame.number is None else {"frame": frame.number}
    rows = zip(detections["boxes"].tolist(), detections["scores"].tolist(), detections["labels"].tolist(), strict=True)
    listed: list[dict[str, Any]] = [
        {"class": class_names[c - 1], "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for (x1, y1, x2, y2), score, c in rows
    ]
    for row, spread in zip(listed, cast(dict[str, Tensor], detections).get("score_std", torch.empty(0)), strict=False):
        row["score_std"] = float(spread)
    return {"file_name": frame.source, **place, "picture": name, "detections": listed}
