"""Tables of a comparison: Markdown with a row per arm, CSV with a row per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssdnorm.compare import formatting as say
from ssdnorm.compare.formatting import NOTHING
from ssdnorm.compare.results import METRICS, ArmResult, Contrast, Difference, Finding, Results
from ssdnorm.files import write_rows


def table_markdown(results: Results) -> str:
    """A row per arm: the metric with its interval, the difference to the baseline, the verdict, AP50, costs.

    Metrics are in points of 100, with 95 % intervals in brackets: of means over seeds, of differences over seeds and
    test images, alone and for all comparisons together; ``margin`` is the smallest within which an arm could be called
    equivalent. Empty columns are left out. Contrasts follow in a table of their own.
    """
    table = markdown_table([_markdown_row(arm, results.metric) for arm in results.arms], always=("arm", results.metric))
    return table + (
        f"\n{markdown_table([_contrast_row(each) for each in results.contrasts])}" if results.contrasts else ""
    )


def metrics_markdown(results: Results) -> str:
    """A row per arm with all metrics in points of 100, and 95 % intervals over seeds in brackets."""
    rows = [{"arm": arm.name} | {name: _with_interval(arm, name) for name in METRICS} for arm in results.arms]
    return markdown_table(rows, always=("arm",))


def write_csv(results: Results, path: Path) -> None:
    """Write a row per run, with every learning rate: arm, seed, lr, status, reason, metrics, seconds, costs.

    Metrics are in [0, 1] as in ``result.json``; those with recomputed batch-norm statistics end in ``_population``.
    ``chosen`` is 1 for runs with their arm's chosen learning rate, ``compared`` for those that the verdicts are about;
    ``validation`` is the metric that it was chosen by.
    """
    rows: list[dict[str, Any]] = []
    population: set[str] = set()
    for arm in results.arms:
        for run in arm.runs:
            recomputed = run.result.get("metrics_population", {})
            recomputed = {f"{name}_population": recomputed[name] for name in METRICS if name in recomputed}
            row = run.result | run.result.get("metrics", {}) | recomputed | vars(run)
            row |= {"chosen": int(run.lr == arm.lr), "compared": int(run.compared)}
            rows.append(row | {"validation": run.result.get("metrics_validation", {}).get(results.metric)})
            population |= recomputed.keys()
    columns = ["arm", "seed", "lr", "chosen", "compared", "status", "reason", *METRICS, *sorted(population)]
    columns += ["validation", "seconds", "seconds_to_target", "parameters", "peak_memory_mib", "device", "commit"]
    columns.append("folder")
    write_rows(path, columns, [{name: row.get(name) for name in columns} for row in rows])


def markdown_table(rows: Sequence[dict[str, str]], always: Sequence[str] = ()) -> str:
    """Markdown without empty columns, except those in ``always``."""
    columns = [name for name in rows[0] if name in always or any(row[name] != NOTHING for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    escapes = str.maketrans({"|": "\\|", "<": "&lt;", "\n": " "})
    return "\n".join(f"| {' | '.join(cell.translate(escapes) for cell in line)} |" for line in lines) + "\n"


def _markdown_row(arm: ArmResult, metric: str) -> dict[str, str]:
    costs, difference, other = arm.costs, arm.differences.get(metric), "AP50" if metric != "AP50" else "AP"
    images, margin, reached = NOTHING, NOTHING, NOTHING
    if difference is not None and difference.images:
        images = say.signed_interval(*difference.images)
    if arm.finding is not None and arm.verdict in ("equivalent", "undecided"):
        margin = f"±{say.plain_points(arm.finding.smallest_margin)}"
    if costs.seconds_to_target is not None:
        reached = f"{say.duration(costs.seconds_to_target)} ({costs.num_reached} of {len(arm.chosen_runs)})"
    gap, together, p = _difference_cells(difference, arm.finding)
    return {
        "arm": arm.name,
        metric: _with_interval(arm, metric),
        other: _with_interval(arm, other),
        "difference": gap,
        "all together": together,
        "over images": images,
        "p": p,
        "margin": margin,
        "verdict": arm.verdict,
        "seeds": str(len(arm.finished_runs)),
        "lr": f"{arm.lr:g}",
        "parameters": say.amount(costs.parameters),
        "training img/s": say.amount(costs.images_per_second),
        "memory MiB": say.amount(costs.peak_memory_mib),
        "latency ms": say.amount(costs.latency_ms),
        "to target": reached,
    }


def _contrast_row(contrast: Contrast) -> dict[str, str]:
    gap, together, p = _difference_cells(contrast.difference, contrast.finding)
    verdict = NOTHING if contrast.finding is None else contrast.finding.verdict
    return {"contrast": contrast.name, "difference": gap, "all together": together, "p": p, "verdict": verdict}


def _difference_cells(difference: Difference | None, finding: Finding | None) -> tuple[str, str, str]:
    gap, together, p = NOTHING, NOTHING, NOTHING
    if difference is not None:
        gap = f"{say.signed_points(difference.paired.mean)} {say.signed_interval(difference.low, difference.high)}"
    if finding is not None:
        together, p = say.signed_interval(finding.low, finding.high), say.p_value(finding.p)
    return gap.strip(), together, p


def _with_interval(arm: ArmResult, metric: str) -> str:
    mean = arm.metrics.get(metric)
    return NOTHING if mean is None else f"{say.points(mean.mean)} {say.interval(mean)}".strip()
