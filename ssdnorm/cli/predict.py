"""Detect objects in pictures: python scripts/predict.py --checkpoint runs/x/checkpoints/model.safetensors --output out *.jpg"""

from __future__ import annotations

import argparse
import glob
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ssdnorm.build import load_detector
from ssdnorm.cli.refuse import no_more_words
from ssdnorm.data.images import EncodedImage
from ssdnorm.data.transforms import EvalTransform
from ssdnorm.drawing import draw_boxes
from ssdnorm.engine.run import write_json
from ssdnorm.metrics.coco import coco_results

HELP = "draw the detections of a checkpoint on pictures"

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("images", nargs="+", help="pictures, folders of pictures, or patterns")
    parser.add_argument("--checkpoint", required=True, type=Path, help="model.safetensors of a run")
    parser.add_argument("--output", required=True, type=Path, help="folder for the pictures and detections.json")
    parser.add_argument("--score-threshold", type=float, default=0.4, help="draw and list detections above it (0.4)")
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1 …; default: cuda where it is there")


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Detect image by image, draw, list."""
    no_more_words(rest)
    if not 0 <= arguments.score_threshold < 1:
        raise ValueError(f"--score-threshold: must lie in [0, 1); got {arguments.score_threshold}")
    paths = find_images(arguments.images)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    detector = load_detector(arguments.checkpoint).to(device)
    detector.post_process.score_threshold = max(detector.post_process.score_threshold, arguments.score_threshold)
    resize = EvalTransform(detector.model.image_size)
    found, seconds, num_objects, unreadable = [], 0.0, 0, []
    for path in tqdm(paths, desc="predict", unit="image", disable=not sys.stderr.isatty()):
        try:
            pixels = EncodedImage.read(path).decode()
        except (OSError, ValueError) as error:
            unreadable.append(str(error))
            continue
        start = time.perf_counter()
        small, _, _ = resize(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        with torch.inference_mode():
            output = detector.model(small[None].to(device))
            detections = detector.post_process(output, torch.tensor([pixels.shape[:2]], device=device))[0]
        detections = {key: value.cpu() for key, value in detections.items()}  # type: ignore[attr-defined]
        seconds += time.perf_counter() - start
        labels, scores = detections["labels"].tolist(), detections["scores"].tolist()
        num_objects += len(labels)
        captions = [f"{detector.class_names[c - 1]} {score:.2f}" for c, score in zip(labels, scores, strict=True)]
        name = f"{len(found):05d}_{path.stem}.jpg"
        arguments.output.mkdir(parents=True, exist_ok=True)
        draw_boxes(pixels, detections["boxes"], captions, labels).save(arguments.output / name, quality=92)
        found.append({"file_name": str(path), "picture": name, "detections": _listed(detections, detector.class_names)})
    write_json(arguments.output / "detections.json", found)
    for message in unreadable:
        print(f"not read: {message}", file=sys.stderr)
    if not found:
        raise ValueError("no picture could be read")
    print(f"{len(found)} images, {num_objects} objects, {1000 * seconds / len(found):.0f} ms an image; {arguments.output}")


def find_images(words: Sequence[str]) -> list[Path]:
    """Files named by paths, folders and patterns, each once, in order.

    Raises:
        FileNotFoundError: for a word that names nothing.
    """
    paths: dict[Path, None] = {}
    for word in words:
        place = Path(word)
        if place.is_dir():
            matches = sorted(p for p in place.iterdir() if p.suffix.lower() in _SUFFIXES)
        elif place.is_file():
            matches = [place]
        else:
            matches = sorted(Path(p) for p in glob.glob(word, recursive=True) if Path(p).is_file())
        if not matches:
            raise FileNotFoundError(f"{word}: no such picture, folder with pictures, or pattern that matches any")
        paths |= dict.fromkeys(matches)
    return list(paths)


def _listed(detections: dict[str, torch.Tensor], class_names: Sequence[str]) -> list[dict]:
    results = coco_results([detections], [0], list(range(1, len(class_names) + 1)))  # type: ignore[list-item]
    return [
        {"class": class_names[r["category_id"] - 1], "score": r["score"], "bbox": r["bbox"]} for r in results
    ]
