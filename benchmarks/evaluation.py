"""Time COCO evaluation from files to numbers beside every evaluator that is installed, and compare the numbers."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.child import Run, in_turns
from benchmarks.synthetic_coco import synthetic_coco
from benchmarks.table import Table
from benchmarks.timing import Settings
from ssdnorm.metrics import evaluate_coco, load_detections, load_ground_truth

Numbers = list[float]  # AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl
_OURS, _REFERENCE = "ssdnorm", "pycocotools"


def measure(settings: Settings, *, size: tuple[int, int, int] | None = None) -> Table:
    """Processor seconds and memory of COCO's twelve numbers, each run in a process of its own.

    Args:
        size: images, detections per image, classes.
    """
    num_images, per_image, num_classes = size or ((200, 50, 20) if settings.quick else (5000, 100, 80))
    with TemporaryDirectory() as folder:
        files = _write(Path(folder), *synthetic_coco(num_images, per_image, num_classes))
        calls = {name: partial(call, *files) for name, call in evaluators().items()}
        runs = in_turns(calls, 1 if settings.quick else 3, once=(_REFERENCE,))
    seconds = {name: median(run.seconds for run in some) for name, some in runs.items()}
    differences = {name: difference(runs[name], runs[_REFERENCE]) for name in runs}
    faster = {name: seconds[_OURS] / x for name, x in seconds.items() if x < seconds[_OURS]}
    listed = ", ".join(f"{name} ({ratio:.1f}×)" for name, ratio in faster.items()) or "none"
    return Table(
        "evaluation",
        f"COCO's box metric on synthetic data, from two JSON files to twelve numbers: {num_images} images with "
        f"{per_image} detections each, {num_classes} classes. Processor seconds of all threads, growth of the "
        "process's peak memory, *times ours*: above 1 it is slower than ours, largest difference to pycocotools (0: "
        "identical in every bit). Runs take turns, pycocotools only once.",
        [
            {
                "evaluator": f"{name} {version(name)}",
                "seconds": seconds[name],
                "memory_MB": median(run.peak_mb for run in some),
                "times_ours": median(a.seconds / b.seconds for a, b in zip(some, runs[_OURS], strict=False)),
                "difference": differences[name],
            }
            for name, some in runs.items()
        ],
        {
            "evaluation.seconds": None if settings.quick else seconds[_OURS],
            "evaluation.difference": differences[_OURS],
        },
        [f"Faster than ours: {listed}."],
    )


def evaluators() -> dict[str, Callable[[Path, Path], Numbers]]:
    """What makes twelve numbers of an annotation and a result file, by the name of its package."""
    found: dict[str, Callable[[Path, Path], Numbers]] = {
        _OURS: _evaluate_ours,
        _REFERENCE: partial(_like_pycocotools, "pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
    }
    for name, module, evaluator in (
        ("faster-coco-eval", "faster_coco_eval", "COCOeval_faster"),
        ("hotcoco", "hotcoco", "COCOeval"),
        ("ultrafast-pycocotools", "ultrafast_pycocotools", "COCOeval"),
    ):
        if importlib.util.find_spec(module):
            found[name] = partial(_like_pycocotools, module, module, evaluator)
    if importlib.util.find_spec("vernier"):
        found["vernier"] = _evaluate_vernier
    return found


def difference(runs: list[Run], reference: list[Run]) -> float:
    """The largest between two evaluators' numbers."""
    pairs = zip(runs[0].value, reference[0].value, strict=True)
    return max(abs(a - b) for a, b in pairs)


def _evaluate_ours(truth_file: Path, detections_file: Path) -> Numbers:
    truth = load_ground_truth(truth_file)
    return list(evaluate_coco(truth, load_detections(detections_file, truth)).metrics.values())


def _like_pycocotools(
    index: str, evaluation: str, evaluator_name: str, truth_file: Path, detections_file: Path
) -> Numbers:
    logging.disable(logging.INFO)  # faster-coco-eval logs its progress
    with contextlib.redirect_stdout(io.StringIO()):
        truth = import_module(index).COCO(str(truth_file))
        found = truth.loadRes(str(detections_file))
        evaluator = getattr(import_module(evaluation), evaluator_name)(truth, found, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(x) for x in evaluator.stats[:12]]


def _evaluate_vernier(truth_file: Path, detections_file: Path) -> Numbers:
    evaluator = import_module("vernier.instance").Evaluator(parity_mode="strict")
    return [float(x) for x in evaluator.evaluate(truth_file.read_bytes(), detections_file.read_bytes()).stats]


def _write(folder: Path, truth: Mapping[str, Any], detections: list[dict[str, Any]]) -> tuple[Path, Path]:
    files = folder / "instances.json", folder / "detections.json"
    for file, content in zip(files, (truth, detections), strict=True):
        file.write_text(json.dumps(content))
    return files
