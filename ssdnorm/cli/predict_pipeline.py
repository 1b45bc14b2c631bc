"""Detect in batches of frames, while threads read the frames that follow and draw those before."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ssdnorm.cli.frames import Frame, is_video, read_frames
from ssdnorm.structures import Detections

T = TypeVar("T")
Rows = dict[str, list]  # boxes, scores, labels of one frame, above the threshold


@dataclass(frozen=True)
class Predictor:
    """A network with its classes, and which of its detections are shown.

    Args:
        prepare: image ``(3, H, W)`` uint8 → input ``(1, 3, S, S)`` and size ``(1, 2)``; called in threads.
        detect: inputs ``(B, 3, S, S)``, sizes ``(B, 2)`` → detections.
        class_names: of the labels 1, 2, …
        thresholds: the score above which detections of each label are shown, ``(num_classes,)``; 0 is the background.
    """

    prepare: Callable[[Tensor], tuple[Tensor, Tensor]]
    detect: Callable[[Tensor, Tensor], list[Detections]]
    class_names: tuple[str, ...]
    thresholds: Tensor


@dataclass
class Pipeline:
    """Frames in, frames with detections and pictures out, in the same order.

    Attributes:
        draw: frame, rows → picture; called in threads, and may save it.
        unreadable: the reasons for frames that could not be read.
        seconds: spent on detecting.
    """

    predictor: Predictor
    draw: Callable[[Frame, Rows], Image.Image]
    batch_size: int
    unreadable: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def run(self, sources: Iterable[Path | int], *, limit: int | None) -> Iterator[tuple[Frame, Rows, Image.Image]]:
        """The frames of pictures, of a video or of a camera.

        Args:
            limit: frames per video or camera.
        """
        with ThreadPoolExecutor(max_workers=min(4, (os.cpu_count() or 1) + 1)) as pool:
            ahead = 2 * self.batch_size
            loaded = _in_order(pool, self._loads(sources, limit), ahead)
            detected = self._detect(item for item in loaded if item is not None)
            yield from _in_order(pool, (partial(self._finish, frame, rows) for frame, rows in detected), ahead)

    def _loads(self, sources: Iterable[Path | int], limit: int | None) -> Iterator[Callable[[], Any]]:
        for source in sources:
            if not is_video(source):
                yield partial(self._load, source)
                continue
            try:
                for frame in read_frames(source, limit=limit):
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
                rows.append({key: tensor[above].tolist() for key, tensor in one.items()})
            self.seconds += time.perf_counter() - start
            yield from zip((item[0] for item in batch), rows, strict=True)

    def _finish(self, frame: Frame, rows: Rows) -> tuple[Frame, Rows, Image.Image]:
        return frame, rows, self.draw(frame, rows)


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
