"""This file is about what an evaluation leaves: result.json, detections, intervals, plots and pictures of failures."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from tqdm import tqdm

from ssdnorm.cli.evaluate_sources import Evaluated, GroundTruth, read_detections
from ssdnorm.engine.evaluation import EvaluationOptions
from ssdnorm.files import replaced_file, write_json
from ssdnorm.metrics.bootstrap import Interval, bootstrap_coco, bootstrap_difference, intervals_json
from ssdnorm.metrics.coco import CocoResult, evaluate_coco
from ssdnorm.metrics.errors import ErrorBreakdown, break_down_errors, worst_images
from ssdnorm.metrics.voc import write_voc_detections
from ssdnorm.plots.boxes import draw_side_by_side
from ssdnorm.provenance import provenance

_RESAMPLES = 1000  # of a difference, where --bootstrap does not say


@dataclass(frozen=True)
class ReportOptions:
    """What is asked for beyond the numbers; ``output`` None writes nothing but ``voc_dets``."""

    output: Path | None
    voc_dets: Path | None = None
    bootstrap: int | None = None
    against: Path | None = None
    plots: bool = False
    show_worst: int | None = None
    show_above: float = 0.3


def write_evaluation(
    evaluated: Evaluated, options: EvaluationOptions, report: ReportOptions, *, started: float
) -> None:
    """Print the numbers; compute and write what else is asked for; ``result.json`` last, when all the rest is there.

    Args:
        started: ``time.perf_counter()`` at the command's start.
    """
    result, coco = evaluated.result, evaluated.result.coco
    print(result.table)
    written: list[Path] = []
    if report.output is not None and evaluated.new_detections is not None:  # first: a model may have run for hours
        written.append(report.output / "detections.json")
        write_json(written[-1], evaluated.new_detections)
    intervals = _intervals(coco, report.bootstrap)
    against = _difference(coco, evaluated.truth, options, report)
    breakdown = break_down_errors(coco) if coco is not None and coco.matches is not None else None
    if breakdown is not None:
        print(f"\n{breakdown.table()}")
    if report.voc_dets is not None:
        written.append(report.voc_dets)
        write_voc_detections(report.voc_dets, evaluated.truth.content, result.found)
    if report.output is None:
        print(f"\nwritten: {written[0]}" if written else "\nnothing written: no --output")
        return
    if report.plots:
        assert coco is not None
        written.append(report.output / "plots")
        _write_plots(written[-1], coco, breakdown, intervals)
    worst = []
    if report.show_worst is not None:
        assert coco is not None
        written.append(report.output / "worst")
        worst = write_worst(written[-1], coco, evaluated.truth, report.show_worst, report.show_above)
    written.append(report.output / "result.json")
    versions = provenance()
    packages = ["numpy"] if options.backend == "ssdnorm" else ["numpy", options.backend]
    versions["versions"] |= {name: version(name) for name in packages}
    write_json(
        written[-1],
        {
            "metrics": result.metrics,
            "per_class": result.per_class,
            "intervals": None if intervals is None else intervals_json(intervals),
            "against": against,
            "errors": None if breakdown is None else breakdown.to_json(),
            "worst_images": worst,
            "backend": None if coco is None else coco.backend,
            "options": asdict(options) | {"iou_thresholds": None if coco is None else coco.iou_thresholds.tolist()},
            "images": len(evaluated.truth.arrays.image_ids),
            "objects": int((~evaluated.truth.arrays.crowd).sum()),
            "detections": len(result.found),
            "inputs": evaluated.inputs,
            "seconds": round(time.perf_counter() - started, 2),
            **versions,
        },
    )
    print(f"\nwritten: {', '.join(map(str, written))}")


def write_worst(
    folder: Path, coco: CocoResult, truth: GroundTruth, num_images: int, min_score: float
) -> list[dict[str, Any]]:
    """Pictures of the images with the most errors, ground truth on the left, detections on the right.

    Returns:
        for each picture its file, its image and its errors by kind.

    Raises:
        FileNotFoundError: an image is not there.
    """
    from ssdnorm.plots.errors import boxes_of_image  # imports matplotlib

    assert truth.load_image is not None
    breakdown = break_down_errors(coco, min_score=min_score)
    names = {image["id"]: str(image.get("file_name", image["id"])) for image in truth.content["images"]}
    rows, pictures = [], []
    worst = worst_images(breakdown, num_images)
    for number, image in enumerate(tqdm(worst, desc="worst images", unit="image", disable=None), 1):
        name = names[image.image_id]
        counts = {kind: count for kind, count in image.counts.items() if count}
        title = f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())
        picture = draw_side_by_side(
            truth.load_image(image.image_id), *boxes_of_image(breakdown, image.place), title=title
        )
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=92)
        pictures.append(encoded)
        file = f"{number:0{len(str(num_images))}d}_{re.sub(r'[^-.A-Za-z0-9]', '_', PurePath(name).stem)}.jpg"
        rows.append({"picture": file, "image_id": image.image_id, "file_name": name, "errors": counts})
    for row, encoded in zip(rows, pictures, strict=True):  # all could be drawn
        with replaced_file(folder / row["picture"]) as unfinished:
            unfinished.write_bytes(encoded.getvalue())
    return rows


def _intervals(coco: CocoResult | None, num_resamples: int | None) -> dict[str, Interval] | None:
    if num_resamples is None:
        return None
    assert coco is not None
    with _Bar("bootstrap", num_resamples) as progress:
        intervals = bootstrap_coco(coco, num_resamples=num_resamples, metrics=_metrics(coco), progress=progress)
    print(f"\n95 % intervals over images, {num_resamples} resamples")
    print("\n".join(f"  {name:<6} {interval}" for name, interval in intervals.items()))
    return intervals


def _difference(
    coco: CocoResult | None, truth: GroundTruth, options: EvaluationOptions, report: ReportOptions
) -> dict[str, Any] | None:
    if report.against is None:
        return None
    assert coco is not None
    _, found = read_detections(report.against, truth)
    other = evaluate_coco(
        truth.arrays, found, iou_thresholds=options.iou_thresholds, max_detections=options.max_detections
    )
    num = report.bootstrap or _RESAMPLES
    with _Bar("difference", num) as progress:
        gaps = bootstrap_difference(coco, other, num_resamples=num, metrics=_metrics(coco), progress=progress)
    print(f"\nThese minus {report.against}, 95 % intervals over the same images, {num} resamples")
    for name, gap in gaps.items():
        low, high, share = f"{gap.low:+.4f}", f"{gap.high:+.4f}", f"{100 * gap.share_higher:.0f}"
        print(f"  {name:<6} {gap.value:+.4f} [{low}, {high}]   higher in {share} % of the resamples")
    return {"metrics": other.metrics, "difference": intervals_json(dict(gaps))}


def _metrics(coco: CocoResult) -> Sequence[str]:
    return ("AP", "AP50") if 0.5 in coco.iou_thresholds else ("AP",)


def _write_plots(
    folder: Path, coco: CocoResult, breakdown: ErrorBreakdown | None, intervals: dict[str, Interval] | None
) -> None:
    from ssdnorm.plots.evaluation import write_report  # imports matplotlib

    write_report(folder, coco, breakdown=breakdown, intervals=intervals)


class _Bar:
    """A progress bar on a terminal; its value is the callback of the bootstrap."""

    def __init__(self, words: str, total: int) -> None:
        self._bar = tqdm(total=total, desc=words, unit="resample", disable=None)

    def __enter__(self) -> Callable[[int], Any]:
        return lambda done: self._bar.update(done - self._bar.n)

    def __exit__(self, *error: object) -> None:
        self._bar.close()
