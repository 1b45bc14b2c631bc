"""Small data sets on disk, as fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest

from .small_sets import CocoFolder, VocFolder, YoloFolder


@pytest.fixture
def voc(tmp_path: Path) -> VocFolder:
    return VocFolder(tmp_path / "VOC")


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path)


@pytest.fixture
def yolo(tmp_path: Path) -> YoloFolder:
    return YoloFolder(tmp_path / "YOLO")
