"""One thread per process, and the real data of ``$SSDNORM_DATA`` or ``../shared/data`` where it is available."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, and by the processes that tests start

import shutil
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)

settings.register_profile(  # a busy machine is not a failure
    "no_deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("no_deadline")

# name -> archive
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
    """``real_data("BCCD")`` is the unpacked folder; skips the test, with the reason, where there is no data.

    The workers of pytest-xdist share one unpacked folder; tests only read from it.

    Names: BCCD, playing_cards, microcontrollers, coco_union, eval_references, sample_photos, vgg16_conv_fp16.npz.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers of this session

    @cache
    def unpack(name: str) -> Path | str:
        if name not in _ARCHIVES and name not in _FILES:
            raise KeyError(f"no real data {name!r}; choose one of: {', '.join([*_ARCHIVES, *_FILES])}")
        folder = Path(os.environ.get("SSDNORM_DATA") or Path(__file__).parents[2] / "shared" / "data")
        file = folder / _ARCHIVES.get(name, name)
        if not file.is_file():
            return f"{file} does not exist; set SSDNORM_DATA to the folder that holds it"
        if name in _FILES:
            return file
        target = root / f"real_data_{name}"
        if not target.exists():
            own = tmp_path_factory.mktemp(name)
            with tarfile.open(file) as archive:
                archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
                archive.extractall(own)
            try:
                own.rename(target)  # at once, so that no worker sees half of it
            except OSError:  # another worker came first
                shutil.rmtree(own)
        inner = target / name
        return inner if inner.is_dir() else target

    def find(name: str) -> Path:
        found = unpack(name)
        if isinstance(found, str):
            pytest.skip(found)
        return found

    return find
