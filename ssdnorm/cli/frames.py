"""Read frames from pictures, folders, patterns, videos and cameras; write videos."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ssdnorm.data.images import IMAGE_SUFFIXES, EncodedImage
from ssdnorm.files import replaced_file

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_LAST_CAMERA = 2**31 - 1  # the largest number that OpenCV accepts


@dataclass(frozen=True)
class Frame:
    """One frame to detect objects in.

    Args:
        source: the file, or the camera.
        pixels: ``(H, W, 3)`` uint8 RGB.
        number: of the frame in a video or camera, from 0; None for a picture file.
        rate: frames per second of the video; 0 if unknown.
    """

    source: str
    pixels: np.ndarray
    number: int | None = None
    rate: float = 0.0


def find_sources(arguments: Sequence[str]) -> list[Path | int]:
    """Find picture and video files by path, folder or pattern, each once, in order; an integer is a camera."""
    found: dict[Path | int, None] = {}
    for argument in arguments:
        place = Path(argument)
        if place.is_dir():
            matches: list[Path | int] = [*sorted(p for p in place.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)]
        elif place.is_file():
            matches = [place]
        elif argument.isdecimal() and int(argument) <= _LAST_CAMERA:
            matches = [int(argument)]
        else:
            matches = [*sorted(p for p in map(Path, glob.glob(argument, recursive=True)) if p.is_file())]
        if not matches:
            raise FileNotFoundError(
                f"{argument}: no such picture, video, folder with pictures, or pattern that matches any"
            )
        found |= dict.fromkeys(matches)
    return list(found)


def is_video(source: Path | int) -> bool:
    """Whether a source is a camera or a video file."""
    return isinstance(source, int) or source.suffix.lower() in VIDEO_SUFFIXES


def read_frames(source: Path | int, *, limit: int | None = None) -> Iterator[Frame]:
    """Read the frames of one source, at most ``limit`` of a video or camera."""
    if isinstance(source, Path) and not is_video(source):
        yield Frame(str(source), EncodedImage.read(source).decode())
        return
    name = str(source) if isinstance(source, Path) else f"camera {source}"
    capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
    try:
        if not capture.isOpened():
            raise ValueError(f"{name}: OpenCV cannot open it")
        rate, number = float(capture.get(cv2.CAP_PROP_FPS)), 0
        while limit is None or number < limit:
            there, pixels = capture.read()
            if not there:
                break
            yield Frame(name, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), number, rate)
            number += 1
        if number == 0:
            raise ValueError(f"{name}: no frame could be read")
    finally:
        capture.release()


@contextlib.contextmanager
def new_video(path: Path, first: Frame) -> Iterator[cv2.VideoWriter]:
    """Write an ``.mp4`` video of a frame's size and rate (25 per second if unknown), whole or not at all."""
    height, width = first.pixels.shape[:2]
    rate = first.rate if first.rate > 0 else 25.0
    with replaced_file(path) as unfinished:
        writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
        if not writer.isOpened():
            raise ValueError(f"{path}: OpenCV cannot write this video")
        try:
            yield writer
        finally:
            writer.release()
        written = cv2.VideoCapture(str(unfinished))  # the index comes last; OpenCV reports no errors
        if not written.isOpened():
            raise ValueError(f"{path}: the video could not be completed; is the disk full?")
        written.release()
