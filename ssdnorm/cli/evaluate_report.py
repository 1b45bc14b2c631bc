"""What an evaluation leaves: result.json, detections, intervals, plots and pictures of the worst images."""

from __future__ import annotations

import argparse
import io
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ssdnorm.cli.evaluate_sources import Sources, read_detections
from ssdnorm.engine.evaluation import EvaluationOptions, EvaluationResult
from ssdnorm.files import shortened, write_bytes, write_json
from ssdnorm.metrics.bootstrap import bootstrap_coco, bootstrap_difference, intervals_json
from ssdnorm.metrics.coco import CocoResult, evaluate_coco
from ssdnorm.metrics.errors import ErrorAnalysis, ErrorBreakdown, f_scores
from ssdnorm.metrics.thresholds import curves_of, operating_points, points_table, thresholds_of
from ssdnorm.metrics.voc_files import write_voc_detections
from ssdnorm.metrics.worst import Outcomes, find_outcomes, worst_images
from ssdnorm.plots.boxes import boxes_of_image, draw_side_by_side
from ssdnorm.provenance import provenance

if TYPE_CHECKING:
    from ssdnorm.data.dataset import DetectionDataset

_RESAMPLES = 1000  # of a difference, where --bootstrap does not say
_LABEL_ERRORS = 100  # kept in result.json
_SHOWN_ABOVE = 0.3  # lowest score among the worst images, where --show-above does not say


def write_evaluation(
    result: EvaluationResult,
    sources: Sources,
    options: EvaluationOptions,
    arguments: argparse.Namespace,
    *,
    started: float,
) -> None:
    """Print the numbers; compute and write what else is asked for; ``result.json`` last, when all the rest is there.

    Args:
        started: ``time.perf_counter()`` at the command's start.
    """
    coco, output = result.coco, arguments.output
    print(result.table)
    written: list[Path] = []
    if output is not None and sources.is_new:  # first: a model may have run for hours
        written.append(output / "detections.json")
        write_json(written[-1], result.detections)
    content: dict[str, Any] = {"metrics": result.metrics, "per_class": result.per_class}
    content["intervals"] = _intervals(coco, arguments.bootstrap)
    content["against"] = _difference(result, options, arguments)
    content |= {"errors": None, "f_scores": None if coco is None else f_scores(coco), "operating_points": None}
    if coco is not None and coco.matches is not None:
        analysis = ErrorAnalysis(coco)
        breakdown = analysis.breakdown()
        points = operating_points(coco)
        content |= {"errors": asdict(breakdown), "operating_points": points}
        print(f"\n{breakdown.table()}\n\n{points_table(points)}")
        if arguments.store_thresholds:
            from ssdnorm.models.checkpoint import read_checkpoint, write_checkpoint

            written.append(arguments.checkpoint)
            if (thresholds := thresholds_of(points)) is None:
                raise ValueError("--store-thresholds: no detection hits an object, so there is no best threshold")
            write_checkpoint(written[-1], replace(read_checkpoint(written[-1]), thresholds=thresholds))
        if arguments.plots:
            written.append(output / "plots")
            content |= write_plots(written[-1], coco, analysis, breakdown)
        if arguments.show_worst is not None:
            assert sources.data_set is not None
            written.append(output / "worst")
            outcomes = find_outcomes(
                coco, min_score=_SHOWN_ABOVE if arguments.show_above is None else arguments.show_above
            )
            content["worst_images"] = _write_worst(written[-1], outcomes, sources.data_set, arguments.show_worst)
    content.setdefault("worst_images", [])
    if arguments.voc_dets is not None:
        written.append(arguments.voc_dets)
        write_voc_detections(written[-1], result.truth, result.found)
    if output is None:
        print(f"\nwritten: {', '.join(map(str, written))}" if written else "\nnothing written: no --output")
        return
    written.append(output / "result.json")
    versions = provenance()
    packages = ["numpy"] if options.backend == "ssdnorm" else ["numpy", options.backend]
    versions["versions"] |= {name: version(name) for name in packages}
    content |= {
        "backend": None if coco is None else coco.backend,
        "options": asdict(options) | {"iou_thresholds": None if coco is None else coco.iou_thresholds.tolist()},
        "images": result.truth.num_images,
        "objects": int((~result.truth.iscrowd).sum()),
        "detections": len(result.found),
        "inputs": sources.inputs,
        "seconds": round(time.perf_counter() - started, 2),
    }
    write_json(written[-1], {**content, **versions})
    print(f"\nwritten: {', '.join(map(str, written))}")


def write_plots(folder: Path, coco: CocoResult, analysis: ErrorAnalysis, breakdown: ErrorBreakdown) -> dict[str, Any]:
    """Figures of the metric and of hotcoco's diagnostics, and the numbers behind them for ``result.json``."""
    # imported here: they load matplotlib, which others need not wait for
    from ssdnorm.plots.diagnostics import plot_calibration, plot_confusion, plot_errors, plot_scores
    from ssdnorm.plots.evaluation import mean_curves, plot_classes, plot_precision_recall
    from ssdnorm.plots.style import save

    figures = {"precision_recall": plot_precision_recall(coco), "classes": plot_classes(coco)}
    for name, figure in {**figures, "errors": plot_errors(breakdown)}.items():
        for suffix in ("png", "svg"):
            save(figure, folder / f"{name}.{suffix}")
    matrix, calibration, label_errors = analysis.confusion_matrix(), analysis.calibration(), analysis.label_errors()
    outcomes = find_outcomes(coco)
    names = outcomes.truth.class_names
    save(plot_confusion(matrix, names), folder / "confusion.png")
    save(plot_calibration(calibration), folder / "calibration.png")
    save(plot_scores(curves_of(outcomes)), folder / "f1.png")
    return {
        "precision_recall": mean_curves(coco),
        "confusion_matrix": {"classes": [*names, "background"], "counts": matrix.tolist()},
        "calibration": calibration,
        "label_errors": {"total": len(label_errors), "first": label_errors[:_LABEL_ERRORS]},
    }


def _write_worst(folder: Path, outcomes: Outcomes, data_set: DetectionDataset, num_images: int) -> list[dict[str, Any]]:
    """Draw the images with the most errors, ground truth on the left, detections on the right; a row for each."""
    rows, pictures = [], []
    places = {image_id: place for place, image_id in enumerate(data_set.ground_truth.image_ids.tolist())}
    worst = worst_images(outcomes, num_images)
    for number, image in enumerate(tqdm(worst, desc="worst images", unit="image", disable=None), 1):
        name = outcomes.truth.names[image.place] or str(image.image_id)
        title = f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in image.counts.items() if count)
        picture = draw_side_by_side(
            data_set.load_image(places[image.image_id]), *boxes_of_image(outcomes, image.place), title=title
        )
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=92)
        pictures.append(encoded)
        stem = shortened(re.sub(r"[^-.A-Za-z0-9]", "_", PurePath(name).stem), 200)
        file = f"{number:0{len(str(num_images))}d}_{stem}.jpg"
        rows.append({"picture": file, "image_id": image.image_id, "file_name": name, "errors": image.counts})
    for row, encoded in zip(rows, pictures, strict=True):  # all could be drawn
        write_bytes(folder / row["picture"], encoded.getbuffer(), durable=False)
    return rows


def _intervals(coco: CocoResult | None, num_resamples: int | None) -> dict[str, Any] | None:
    if num_resamples is None:
        return None
    assert coco is not None
    intervals = bootstrap_coco(coco, num_resamples=num_resamples, metrics=_metrics(coco), title="bootstrap")
    print(f"\n95 % intervals over images, {num_resamples} resamples")
    print("\n".join(f"  {name:<6} {interval}" for name, interval in intervals.items()))
    return intervals_json(intervals)


def _difference(
    result: EvaluationResult, options: EvaluationOptions, arguments: argparse.Namespace
) -> dict[str, Any] | None:
    if arguments.against is None:
        return None
    assert result.coco is not None
    other = evaluate_coco(
        result.truth,
        read_detections(arguments.against, result.truth),
        iou_thresholds=options.iou_thresholds,
        max_detections=options.max_detections,
    )
    num, metrics = arguments.bootstrap or _RESAMPLES, _metrics(result.coco)
    gaps = bootstrap_difference(result.coco, other, num_resamples=num, metrics=metrics, title="difference")
    print(f"\nThese minus {arguments.against}, 95 % intervals over the same images, {num} resamples")
    for name, gap in gaps.items():
        low, high, share = f"{gap.low:+.4f}", f"{gap.high:+.4f}", f"{100 * gap.share_higher:.0f}"
        print(f"  {name:<6} {gap.value:+.4f} [{low}, {high}]   higher in {share} % of the resamples")
    return {"metrics": other.metrics, "difference": intervals_json(dict(gaps))}


def _metrics(coco: CocoResult) -> Sequence[str]:
    return ("AP", "AP50") if 0.5 in coco.iou_thresholds else ("AP",)
