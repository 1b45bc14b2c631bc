"""Time reading an annotation file as large as COCO's."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.synthetic_coco import write_outlined_coco
from benchmarks.table import Table
from benchmarks.timing import Settings
from ssdnorm.data import CocoDataset


def measure(settings: Settings) -> Table:
    """Seconds for train2017's number of images and boxes, once."""
    num_images = 1_180 if settings.quick else 118_000
    with TemporaryDirectory() as folder:
        file, images = write_outlined_coco(Path(folder), num_images)
        megabytes = file.stat().st_size / 1e6
        start = settings.clock()
        dataset = CocoDataset(file, images)
        seconds = settings.clock() - start
    return Table(
        "reading",
        "A synthetic COCO file with outlines, 7.3 boxes per image, is read, and every image looked for.",
        [{"images": len(dataset), "file_MB": megabytes, "seconds": seconds}],
        {"reading.seconds": None if settings.quick else seconds},
    )
