"""This file is about reading a COCO-sized annotation file, and what each loading process then holds of its own."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import multiprocessing

from benchmarks.coco_files import write_coco_files
from benchmarks.table import Goal, Settings, Table
from ssdnorm.coco_format import coco_dict
from ssdnorm.data import CocoDataset, DetectionDataset

_SECONDS_GOAL, _GROWTH_GOAL = 20.0, 5.0  # seconds, MB
_MEMORY = Path("/proc/self/smaps_rollup")
_NEEDS_LINUX = "" if _MEMORY.exists() else "only Linux tells the private memory of a process"

Lists = list[list[dict[str, Any]]]  # annotations of each image, as most readers hold them


def measure(settings: Settings) -> Table:
    """Seconds to read train2017's number of images and boxes; memory that a worker has to itself once it read them."""
    num_images, num_boxes = (1_180, 8_600) if settings.quick else (118_000, 860_000)
    with TemporaryDirectory() as folder:
        file, images = write_coco_files(Path(folder), num_images, num_boxes)
        megabytes = file.stat().st_size / 1e6
        start = settings.clock()
        dataset = CocoDataset(file, images)
        seconds = settings.clock() - start
    what = f"{num_boxes:,} boxes of {num_images:,} images"
    rows: list[dict[str, Any]] = [{"what": f"read {what}, {megabytes:.0f} MB", "seconds": seconds}]
    goals = [Goal(f"reading {what}", _SECONDS_GOAL, seconds, unit="s", at_most=True)]
    grown: dict[str, float | None] = {"forked": None, "spawned": None}
    if not _NEEDS_LINUX:
        for method, name in (("fork", "forked"), ("spawn", "spawned")):
            before, after = worker_memory(dataset, method)
            grown[name] = after - before
            rows.append(_memory_row(f"{name} worker, our arrays", before, after))
        rows.append(_memory_row("forked worker, lists of dicts", *worker_memory(lists_of_dicts(dataset), "fork")))
    goals += [
        Goal(f"private memory that a {name} worker gains", _GROWTH_GOAL, growth, "MB", True, _NEEDS_LINUX)
        for name, growth in grown.items()
    ]
    return Table(
        name="reading",
        about="A made-up COCO file is read; then one worker process goes through all annotations. Private memory is "
        "what the worker does not share with any other process (from smaps_rollup), before it got the data and after.",
        rows=rows,
        goals=goals,
    )


def worker_memory(data: DetectionDataset | Lists, method: str) -> tuple[float, float]:
    """Private memory of a worker in MB, before it has the data and after it read all of it.

    Args:
        method: ``fork``, where the data are there from the start, or ``spawn``, where they are sent.

    Raises:
        RuntimeError: if the worker dies.
    """
    context: Any = multiprocessing.get_context(method)
    here, there = context.Pipe()
    worker = context.Process(target=_read_all, args=(data if method == "fork" else None, there))
    worker.start()
    there.close()
    try:
        if method != "fork":
            here.send(data)
        before, after = here.recv()
    except (EOFError, BrokenPipeError):
        raise RuntimeError(f"a {method}ed worker died before it had read the data; its message stands above") from None
    finally:
        worker.join()
    return before, after


def private_megabytes() -> float:
    """Memory that this process shares with no other."""
    lines = _MEMORY.read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1e3


def lists_of_dicts(dataset: DetectionDataset) -> Lists:
    """The annotations as most readers hold them."""
    by_image = defaultdict(list)
    for row in coco_dict(dataset.ground_truth)["annotations"]:
        by_image[row["image_id"]].append(row)
    return [by_image[dataset.image_id(i)] for i in range(len(dataset))]


def _read_all(inherited: DetectionDataset | Lists | None, parent: Any) -> None:
    np.arange(10).clip(0, 5)  # what NumPy loads at its first use is not the data's
    before = private_megabytes()
    data: DetectionDataset | Lists = parent.recv() if inherited is None else inherited
    total = 0.0
    for i in range(len(data)):
        if isinstance(data, DetectionDataset):
            total += float(data.training_boxes(i)[0].sum()) + len(data.image_name(i))
        else:
            total += sum(sum(row["bbox"]) + row["category_id"] for row in data[i])
    assert total > 0
    parent.send((before, private_megabytes()))


def _memory_row(what: str, before: float, after: float) -> dict[str, Any]:
    return {"what": what, "private_MB_before": before, "private_MB_after": after, "gained_MB": after - before}
