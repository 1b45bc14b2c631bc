"""What all rooms' tests share: the real data of ../shared/data, where it is at hand."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

# name -> (archive, folder in it)
_ARCHIVES = {
    "BCCD": "BCCD.tar",
    "playing_cards": "playing_cards_s320.tar",
    "microcontrollers": "microcontrollers.tar",
    "coco_union": "coco_union_train2017.tar",
    "eval_references": "eval_references.tar",
    "sample_photos": "sample_photos.tar",
}
_FILES = ("vgg16_conv_fp16.npz",)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``real_data("BCCD")`` is the unpacked folder; the test is skipped, with the reason, where there is no data.

    Names: BCCD, playing_cards, microcontrollers, coco_union, eval_references, sample_photos, vgg16_conv_fp16.npz.
    """

    @cache
    def unpack(name: str) -> Path | str:
        if name not in _ARCHIVES and name not in _FILES:
            raise KeyError(f"no real data {name!r}; choose one of: {', '.join([*_ARCHIVES, *_FILES])}")
        folder = Path(os.environ.get("SSDNORM_DATA") or Path(__file__).parents[2] / "shared" / "data")
        file = folder / _ARCHIVES.get(name, name)
        if not file.is_file():
            return f"{file} is not there; set SSDNORM_DATA to the folder that holds it"
        if name in _FILES:
            return file
        target = tmp_path_factory.mktemp(name)
        with tarfile.open(file) as archive:
            archive.extractall(target, filter="data")
        inner = target / name
        return inner if inner.is_dir() else target

    def find(name: str) -> Path:
        found = unpack(name)
        if isinstance(found, str):
            pytest.skip(found)
        return found

    return find
