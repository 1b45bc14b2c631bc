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
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from ssdnorm.cli.checks import add_allow_norm, one_or_more, output_folder, threshold

_BATCH_SIZE = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", help="pictures, folders of pictures, patterns, videos, or a camera's number"
    )
    weights = parser.add_mutually_exclusive_group(required=True)
    weights.add_argument("--checkpoint", type=Path, help="model.safetensors of a run, or another SSD's file")
    weights.add_argument("--onnx", type=Path, help="a file written by ssdnorm export")
    add_allow_norm(parser)
    parser.add_argument(
        "--output", required=True, type=output_folder, help="folder for the pictures and detections.json"
    )
    parser.add_argument(
        "--threshold",
        "--score-threshold",
        dest="threshold",
        type=threshold,
        default=0.4,
        metavar="SCORE",
        help="draw and list detections above it (0.4); best: by class, where F1 was highest in an evaluation",
    )
    parser.add_argument(
        "--labels", metavar="FORMATS", help="also write coco.json, voc/*.xml, yolo/*.txt: some of coco,voc,yolo"
    )
    parser.add_argument(
        "--batch-size", type=one_or_more, help=f"frames through the network at once ({_BATCH_SIZE}; camera: 1)"
    )
    parser.add_argument(
        "--precision",
        choices=("32-true", "bf16-mixed", "auto"),
        help="of the network (32-true); auto measures whether bf16-mixed is faster here",
    )
    parser.add_argument(
        "--mc-dropout", type=one_or_more, metavar="N", help="average N passes with dropout; list score_std"
    )
    parser.add_argument("--compile", action="store_true", help="compile the network: slow to start, then faster")
    parser.add_argument("--max-frames", type=one_or_more, help="per video or camera; default: all, until Ctrl-C")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 …; default: cuda if available")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Detect in batches, draw and list in the order of the frames."""
    # imported here, so that --help does not wait for them
    from tqdm import tqdm

    from ssdnorm.cli.frames import find_sources, is_video
    from ssdnorm.cli.label_files import check_labels, write_labels
    from ssdnorm.cli.predict_pipeline import Pipeline
    from ssdnorm.cli.predictors import predictor_of_checkpoint, predictor_of_onnx
    from ssdnorm.files import write_json

    sources = find_sources(arguments.images)
    formats = check_labels(arguments.labels, sources)
    if arguments.batch_size is None:  # of a camera, a frame is shown at once
        arguments.batch_size = 1 if any(isinstance(source, int) for source in sources) else _BATCH_SIZE
    predictor = predictor_of_checkpoint(arguments) if arguments.onnx is None else predictor_of_onnx(arguments)
    pipeline = Pipeline(predictor, arguments.output, arguments.batch_size, arguments.max_frames)
    start = time.perf_counter()
    total = None if any(map(is_video, sources)) else len(sources)
    with tqdm(total=total, desc="predict", unit="image", disable=not sys.stderr.isatty()) as bar:
        # pictures that follow each other go through together, each video and camera by itself
        groups = groupby(enumerate(sources), key=lambda item: item[0] if is_video(item[1]) else -1)
        for _, group in groups:
            pipeline.run(dict(group), bar)
    for message in pipeline.unreadable:
        print(f"not read: {message}", file=sys.stderr)
    if not (entries := pipeline.entries):
        raise ValueError("no picture could be read")
    write_json(arguments.output / "detections.json", entries)
    labels = write_labels(arguments.output, formats, entries, predictor.class_names)
    num_objects, elapsed = sum(len(entry["detections"]) for entry in entries), time.perf_counter() - start
    latency, rate = 1000 * pipeline.seconds / len(entries), len(entries) / elapsed
    said = f"{len(entries)} images, {num_objects} objects, mean latency {latency:.0f} ms, {rate:.3g} images/s"
    print(f"{said}; {', '.join(map(str, [arguments.output, *labels]))}")
