"""Where a detector fails: bars of the kinds of error, and boxes coloured by what went wrong."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ssdnorm.metrics.errors import KINDS, ErrorBreakdown
from ssdnorm.plots.boxes import DrawnBox
from ssdnorm.plots.colors import COLORS, HUES
from ssdnorm.plots.style import panels, styled

KIND_COLORS = dict(zip(KINDS, (COLORS[HUES[i]] for i in (4, 0, 3, 5, 1, 2)), strict=True))
HIT, IGNORED = "#00c853", "#b0b0b0"  # a hit or an object that was found; crowd regions and what lies on them


@styled
def plot_errors(breakdown: ErrorBreakdown) -> Figure:
    """AP lost to each kind of error with its count, and to all false positives and all objects not found."""
    rows = [(kind, breakdown.delta_ap[kind], KIND_COLORS[kind], f"{breakdown.counts[kind]:,}") for kind in KINDS]
    rows += [("all false positives", breakdown.delta_ap_false_positives, IGNORED, "")]
    rows += [("all not found", breakdown.delta_ap_false_negatives, IGNORED, "")]
    y = np.r_[np.arange(len(KINDS)), len(KINDS) + 0.5, len(KINDS) + 1.5]
    values = [value for _, value, _, _ in rows]
    figure, ((axes,),) = panels(width=6.4, height=3.4)
    axes.barh(y, values, color=[color for _, _, color, _ in rows], height=0.7)
    longest = max([*values, 0.01])
    for place, (_, value, _, count) in zip(y, rows, strict=True):
        text = f"{value:.3f}" + (f"   ({count})" if count else "")
        axes.text(max(value, 0.0) + 0.015 * longest, place, text, va="center", fontsize=8, color=COLORS["soft"])
    axes.set_yticks(y, [name for name, _, _, _ in rows])
    axes.set(xlim=(min(0.0, *values), 1.25 * longest), ylim=(y[-1] + 0.6, -0.6))
    axes.set_xlabel(f"AP at IoU {breakdown.iou_threshold:g} gained if corrected (number of errors)")
    axes.set_title(f"Where AP is lost, AP {breakdown.ap:.3f}")
    axes.grid(False, axis="y")
    return figure


def boxes_of_image(breakdown: ErrorBreakdown, place: int) -> tuple[list[DrawnBox], list[DrawnBox]]:
    """Ground truth and detections of the image at a place among the sorted ids, coloured by what they are.

    Ground truth: green if found, grey for crowd regions, else the colour of "missed" or of the error that points at
    it. Detections, lowest score first: green for hits, grey if ignored, else the error's colour.
    """
    matches = breakdown.matches
    truth, names = matches.ground_truth, matches.ground_truth.class_names
    objects = []
    for g in np.flatnonzero(truth.image == place).tolist():
        unfound = breakdown.object_kind[g] >= 0
        state = "crowd" if truth.crowd[g] else KINDS[breakdown.object_kind[g]] if unfound else ""
        color = IGNORED if truth.crowd[g] else KIND_COLORS.get(state, HIT)
        objects.append(DrawnBox(_xyxy(truth.boxes[g]), f"{names[truth.category[g]]} {state}".strip(), color))
    found_object, ignored = matches.found[0, 0], np.append(matches.object_ignored[0], False)
    hits = set(matches.relevant[(found_object >= 0) & ~ignored[found_object]].tolist())
    found = matches.detections.select(matches.order)
    places = np.flatnonzero(found.image == place)
    detections = []
    for d in places[np.argsort(found.scores[places], kind="stable")].tolist():
        kind = KINDS[breakdown.kind[d]] if breakdown.kind[d] >= 0 else "" if d in hits else "ignored"
        color = KIND_COLORS.get(kind, HIT if d in hits else IGNORED)
        caption = f"{names[found.category[d]]} {found.scores[d]:.2f} {kind}".strip()
        detections.append(DrawnBox(_xyxy(found.boxes[d]), caption, color))
    return objects, detections


def _xyxy(box: np.ndarray) -> tuple[float, float, float, float]:
    x, y, w, h = box.tolist()
    return x, y, x + w, y + h
