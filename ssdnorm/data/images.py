"""Image files: their bytes, their size without decoding, and their pixels."""

from __future__ import annotations

import io
import os
import stat
import warnings
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

_TAIL_BYTES = 65536
_FLAGS = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class EncodedImage:
    """An image file in memory that is decoded when it is known at which size.

    Pixels are 8-bit RGB whatever the file has: grey is repeated, an alpha channel is left out, 16 bits keep their high
    byte, palettes and CMYK are converted. They stay **as stored**: an EXIF orientation is not applied, because the
    boxes of VOC and COCO refer to the stored pixels.

    Args:
        data: the bytes of the file.
        name: the file, for messages.

    Attributes:
        reductions: the factors by which ``decode`` can shrink at less than the cost of the full picture.

    Raises:
        ValueError: by ``size`` and ``decode``, naming the file, when it is truncated or not an image.
    """

    reductions: tuple[int, ...]

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self.name = name
        self.reductions = (1, 2, 4, 8) if data.startswith(b"\xff\xd8") else (1,)  # JPEG's own

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> EncodedImage:
        """The image in a file; ``FileNotFoundError`` names it when it is not there."""
        _check_regular(path)
        return cls(Path(path).read_bytes(), os.fspath(path))

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels, from the header."""
        return _header_size(io.BytesIO(self.data), self.name)[0]

    def decode(self, reduction: int = 1) -> np.ndarray:
        """The pixels ``(⌈H / reduction⌉, ⌈W / reduction⌉, 3)`` uint8 RGB, averaged over squares of the file's pixels.

        Args:
            reduction: one of ``reductions``.
        """
        _ = self.size  # refuses what is no image, and gigapixels, before memory is taken
        if self.data.startswith(b"\xff\xd8") and not _is_complete_jpeg(self.data):
            raise ValueError(f"{self.name}: truncated JPEG")
        flags = _FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            pixels = cv2.imdecode(np.frombuffer(self.data, np.uint8), flags)
        except cv2.error as error:
            raise ValueError(f"{self.name}: cannot be decoded ({error.err})") from None
        if pixels is None:
            raise ValueError(f"{self.name}: cannot be decoded; not an image or damaged")
        return pixels if reduction == 1 else cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)


def size_of(image: EncodedImage | np.ndarray) -> tuple[int, int]:
    """Height and width of an image that is encoded, or drawn ``(H, W, 3)``."""
    return image.size if isinstance(image, EncodedImage) else (image.shape[0], image.shape[1])


def check_image_file(path: str | os.PathLike[str]) -> tuple[tuple[int, int], int]:
    """Size ``(height, width)`` and EXIF orientation (1: upright) of an image file, without decoding it.

    Reads the header and, of a JPEG, the last 64 KiB, where its end marker must be.

    Raises:
        ValueError: naming the file, when it is truncated or not an image.
    """
    _check_regular(path)
    with open(path, "rb") as file:
        found = _header_size(file, os.fspath(path))
        file.seek(0)
        if file.read(2) == b"\xff\xd8":
            file.seek(0, os.SEEK_END)
            file.seek(-min(_TAIL_BYTES, file.tell()), os.SEEK_END)
            if not _is_complete_jpeg(file.read()):
                raise ValueError(f"{os.fspath(path)}: truncated JPEG")
    return found


def _check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse a pipe or a device, whose reading may never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{os.fspath(path)}: no regular file")


def _header_size(file: BinaryIO, name: str) -> tuple[tuple[int, int], int]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                width, height = image.size
                orientation = image.getexif().get(0x0112, 1) if "exif" in image.info else 1
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: {error}") from None
    except Exception as error:  # Pillow raises half a dozen kinds, and what they mean here is one thing
        raise ValueError(f"{name}: not an image that can be read ({type(error).__name__})") from None
    return (height, width), orientation if isinstance(orientation, int) else 1


def _is_complete_jpeg(tail: bytes) -> bool:
    # Neither marker can occur in coded pixels; a thumbnail's end comes before the start of the picture itself.
    return tail.rfind(b"\xff\xd9") > tail.rfind(b"\xff\xda")
