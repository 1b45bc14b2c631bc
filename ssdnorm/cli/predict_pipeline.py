"""Detect in batches of frames, while threads read the frames that follow and draw those before."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ssdnorm.cli.frames import Frame, is_video, new_video, read_frames
from ssdnorm.cli.predictors import Predictor
from ssdnorm.files import shortened
from ssdnorm.plots.boxes import draw_boxes, save_picture

T = TypeVar("T")
Rows = dict[str, list]  # boxes, scores, labels, classes of one frame, above the threshold


@dataclass
class Pipeline:
    """Frames in; pictures, videos and entries of detections.json out, in the same order.

    Attributes:
        output: folder of the pictures and videos.
        batch_size: frames through the network at once.
        limit: frames per video or camera; None for all.
        entries: of detections.json, one per frame.
        unreadable: the reasons for frames that could not be read.
        seconds: spent on detecting.
    """

    predictor: Predictor
    output: Path
    batch_size: int
    limit: int | None
    entries: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, sources: Mapping[int, Path | int], bar: tqdm) -> None:
        """Detect in pictures, or in one video or camera.

        Args:
            sources: by their number among all, which begins the names of what is written.
        """
        paths = {}  # of the pictures or the video, by source
        for i, source in sources.items():
            stem = source.stem if isinstance(source, Path) else f"camera{source}"
            name = str(source) if isinstance(source, Path) else f"camera {source}"
            paths[name] = self.output / f"{i:05d}_{shortened(stem, 200)}.{'mp4' if is_video(source) else 'jpg'}"
        of_camera, video = isinstance(source, int), None
        with contextlib.ExitStack() as stack:
            try:
                for frame, rows, picture in self._frames(sources.values(), paths):
                    path = paths[frame.source]
                    if frame.number is not None:
                        video = video or stack.enter_context(new_video(path, frame))
                        video.write(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR))
                    self.entries.append(_entry(frame, path.name, rows))
                    bar.update()
            except KeyboardInterrupt:
                if not of_camera:  # Ctrl-C ends a camera, but not the command
                    raise

    def _frames(
        self, sources: Iterable[Path | int], paths: Mapping[str, Path]
    ) -> Iterator[tuple[Frame, Rows, Image.Image]]:
        with ThreadPoolExecutor(max_workers=min(4, (os.cpu_count() or 1) + 1)) as pool:
            ahead = 2 * self.batch_size
            loaded = _in_order(pool, self._loads(sources), ahead)
            detected = self._detect(item for item in loaded if item is not None)
            yield from _in_order(pool, (partial(_draw, frame, rows, paths) for frame, rows in detected), ahead)

    def _loads(self, sources: Iterable[Path | int]) -> Iterator[Callable[[], Any]]:
        for source in sources:
            if not is_video(source):
                yield partial(self._load, source)
                continue
            try:
                for frame in read_frames(source, limit=self.limit):
                    yield partial(self._prepare, frame)
            except (OSError, ValueError) as error:
                self.unreadable.append(str(error))

    def _load(self, source: Path | int) -> tuple[Frame, Tensor, Tensor] | None:
        try:
            (frame,) = read_frames(source)
        except (OSError, ValueError) as error:
            self.unreadable.append(str(error))
            return None
        return self._prepare(frame)

    @torch.inference_mode()
    def _prepare(self, frame: Frame) -> tuple[Frame, Tensor, Tensor]:
        return frame, *self.predictor.prepare(torch.from_numpy(frame.pixels).permute(2, 0, 1))

    def _detect(self, items: Iterator[tuple[Frame, Tensor, Tensor]]) -> Iterator[tuple[Frame, Rows]]:
        while batch := list(islice(items, self.batch_size)):
            start = time.perf_counter()
            with torch.inference_mode():
                images, sizes = torch.cat([item[1] for item in batch]), torch.cat([item[2] for item in batch])
                found: list[Any] = self.predictor.detect(images, sizes)
            rows = []
            for one in found:
                above = one["scores"] > self.predictor.thresholds.to(one["scores"].device)[one["labels"]]
                kept = {key: tensor[above].tolist() for key, tensor in one.items()}
                rows.append({**kept, "classes": [self.predictor.class_names[label - 1] for label in kept["labels"]]})
            self.seconds += time.perf_counter() - start
            yield from zip((item[0] for item in batch), rows, strict=True)


def _draw(frame: Frame, rows: Rows, paths: Mapping[str, Path]) -> tuple[Frame, Rows, Image.Image]:
    """Draw the detections; save pictures at once."""
    captions = [f"{name} {score:.2f}" for name, score in zip(rows["classes"], rows["scores"], strict=True)]
    picture = draw_boxes(frame.pixels, rows["boxes"], captions, rows["labels"])
    if frame.number is None:
        save_picture(picture, paths[frame.source])
    return frame, rows, picture


def _entry(frame: Frame, name: str, rows: Rows) -> dict[str, Any]:
    """One frame's entry in detections.json; boxes as x, y, width, height in pixels."""
    found: list[dict[str, Any]] = [
        {"class": word, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for (x1, y1, x2, y2), score, word in zip(rows["boxes"], rows["scores"], rows["classes"], strict=True)
    ]
    for entry, score_std in zip(found, rows.get("score_std", ()), strict=False):  # with --mc-dropout only
        entry["score_std"] = score_std
    number = {} if frame.number is None else {"frame": frame.number}
    height, width = frame.pixels.shape[:2]
    size = {"width": width, "height": height}
    return {"file_name": frame.source, **number, **size, "picture": name, "detections": found}


def _in_order(pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
    """The results of jobs in their order; up to ``ahead`` run while the earlier ones are used."""
    running: deque[Future[T]] = deque()
    try:
        for job in jobs:
            running.append(pool.submit(job))
            if len(running) > ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
