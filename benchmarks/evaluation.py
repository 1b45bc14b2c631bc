"""This file is about what an evaluation costs, in seconds and memory: ours beside what others use, on made-up data."""

from __future__ import annotations

import importlib.util
import multiprocessing
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import numpy as np

from benchmarks.made_up_set import made_up_data
from benchmarks.operators import top_functions
from benchmarks.table import Goal, Settings, Table
from benchmarks.voc_rivals import images_as_arrays, map_by_detections, map_by_images
from ssdnorm.coco_format import ground_truth_table
from ssdnorm.metrics import evaluate_coco, evaluate_voc
from ssdnorm.tables import GroundTruth

Numbers = dict[str, float]

_COCO_GOAL, _VOC_GOAL = 3.0, 6.0
_VOC_NOTE = (
    "chainercv's own code took about a seventh longer than the loop over images and classes, which is written anew"
)
_OURS, _REFERENCE, _FASTER = "ssdnorm", "pycocotools", "faster-coco-eval"
_BY_DETECTIONS, _BY_IMAGES = "a loop over detections", "a loop over images and classes"


@dataclass(frozen=True)
class Run:
    """One call in a process of its own: what it gave, seconds, and the growth of the process's peak memory in MB."""

    value: Numbers
    seconds: float
    peak_mb: float


def measure(settings: Settings) -> Table:
    """Seconds and memory of COCO's and VOC2007's metric, each run in a process of its own."""
    rounds = 1 if settings.quick else 3
    sizes = {"COCO": (5000, 100, 80), "VOC2007": (4952, 100, 20)}  # images, detections on each, classes
    if settings.quick:
        sizes = dict.fromkeys(sizes, (200, 50, 20))
    coco = measure_coco(*made_up_data(*sizes["COCO"]), rounds=rounds)
    voc = measure_voc(*made_up_data(*sizes["VOC2007"]), rounds=rounds)
    rows = [_row("COCO", name, coco, reference=_REFERENCE) for name in coco]
    rows += [_row("VOC2007", name, voc, reference=_BY_DETECTIONS) for name in voc]
    better = min((_BY_DETECTIONS, _BY_IMAGES), key=lambda name: median(run.seconds for run in voc[name]))
    faster = speedup(coco, _FASTER) if _FASTER in coco else None
    goals = [
        Goal(f"COCO, over {_FASTER}", _COCO_GOAL, faster, note="" if faster else "not installed"),
        Goal(f"COCO, difference to {_REFERENCE}", 0, difference(coco, _OURS, _REFERENCE), unit="", at_most=True),
        Goal(f"VOC2007, over {better}", _VOC_GOAL, speedup(voc, better), note=_VOC_NOTE),
        Goal("VOC2007, difference to the loops", 0, difference(voc, _OURS, _BY_DETECTIONS), unit="", at_most=True),
    ]
    notes = []
    if goals[2].met is False:
        objects, found = _voc_arrays(*made_up_data(*sizes["VOC2007"]))
        notes.append(f"Where the time of VOC's goes: {top_functions(lambda: evaluate_voc(objects, found))}.")
    return Table(
        name="evaluation",
        about="Evaluations of made-up data, COCO's from dicts, VOC's from arrays ("
        + "; ".join(
            f"{metric}: {n} images with {d} detections each, {c} classes" for metric, (n, d, c) in sizes.items()
        )
        + "): median seconds, growth of the process's peak "
        "memory, how many times ours is faster, largest difference of the numbers to the reference (pycocotools; the "
        "loop over detections). Runs take turns, pycocotools only once.",
        rows=rows,
        goals=goals,
        notes=notes,
    )


def measure_coco(truth: Mapping[str, Any], detections: list[dict[str, Any]], *, rounds: int) -> dict[str, list[Run]]:
    """Every installed backend of ``evaluate_coco`` in turns; pycocotools, the slow one, in the first round only."""
    backends = [_OURS, _REFERENCE, *([_FASTER] if importlib.util.find_spec("faster_coco_eval") else [])]
    calls = {name: _coco_call(truth, detections, name) for name in backends}
    return _in_turns(calls, {name: 1 if name == _REFERENCE else rounds for name in backends})


def measure_voc(truth: Mapping[str, Any], detections: list[dict[str, Any]], *, rounds: int) -> dict[str, list[Run]]:
    """``evaluate_voc`` and the usual loops in turns, all from arrays: what the loops take where they are used."""
    images = images_as_arrays(truth, detections)
    objects, found = _voc_arrays(truth, detections)
    calls: dict[str, Callable[[], Numbers]] = {
        _OURS: lambda: evaluate_voc(objects, found).metrics,
        _BY_DETECTIONS: lambda: {"mAP": map_by_detections(images)},
        _BY_IMAGES: lambda: {"mAP": map_by_images(images)},
    }
    return _in_turns(calls, dict.fromkeys(calls, rounds))


def _voc_arrays(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]
) -> tuple[GroundTruth, dict[str, np.ndarray]]:
    columns = {key: [row[key] for row in detections] for key in ("image_id", "category_id", "bbox", "score")}
    return ground_truth_table(truth), {key: np.array(column) for key, column in columns.items()}


def speedup(runs: Mapping[str, list[Run]], peer: str) -> float:
    """How many times faster ours is: the median over the rounds that both took part in."""
    return median(other.seconds / ours.seconds for other, ours in zip(runs[peer], runs[_OURS], strict=False))


def difference(runs: Mapping[str, list[Run]], name: str, reference: str) -> float:
    """The largest of the numbers."""
    value, wanted = runs[name][0].value, runs[reference][0].value
    return max(abs(value[key] - wanted[key]) for key in wanted)


def run_forked(call: Callable[[], Numbers]) -> Run:
    """Call it in a process forked from this one, so that its memory is its own.

    Raises:
        RuntimeError: if the process dies.
    """
    fork = multiprocessing.get_context("fork")
    receive, send = fork.Pipe(duplex=False)
    child = fork.Process(target=_send_run, args=(call, send))
    child.start()
    send.close()
    try:
        run: Run = receive.recv()
    except EOFError:
        raise RuntimeError("a measured process died before it had a result; its message stands above") from None
    finally:
        child.join()
    return run


def _send_run(call: Callable[[], Numbers], send: Connection) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    value = call()
    seconds = time.perf_counter() - start
    send.send(Run(value, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def _in_turns(calls: Mapping[str, Callable[[], Numbers]], rounds: Mapping[str, int]) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in calls}
    for round_ in range(max(rounds.values())):
        for name, call in calls.items():
            if round_ < rounds[name]:
                runs[name].append(run_forked(call))
    return runs


def _coco_call(truth: Mapping[str, Any], detections: list[dict[str, Any]], backend: str) -> Callable[[], Numbers]:
    return lambda: evaluate_coco(truth, detections, backend=backend).metrics


def _row(metric: str, name: str, runs: Mapping[str, list[Run]], *, reference: str) -> dict[str, Any]:
    return {
        "metric": metric,
        "by": f"{name} {version(name)}" if metric == "COCO" else name,
        "seconds": median(run.seconds for run in runs[name]),
        "memory_MB": median(run.peak_mb for run in runs[name]),
        "factor": speedup(runs, name),
        "difference": difference(runs, name, reference),
    }
