"""Tables of a comparison: Markdown with a row per arm, CSV with a row per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssdnorm.compare import formatting as say
from ssdnorm.compare.formatting import NOTHING
from ssdnorm.compare.results import METRICS, ArmResult, Contrast, Difference, Finding, Results, Run
from ssdnorm.files import write_rows


def table_markdown(results: Results) -> str:
    """A row per arm: the metric with its interval, the difference to the baseline, the verdict, AP50, costs.

    Metrics are in points of 100, with 95 % intervals in brackets: of means over seeds, of differences over seeds and
    test images, alone and for all comparisons together; ``margin`` is the smallest within which an arm could be called
    equivalent. Empty columns are left out. Contrasts follow in a table of their own.
    """
    table = _table([_markdown_row(arm, results.metric) for arm in results.arms], always=("arm", results.metric))
    return table + (f"\n{_table([_contrast_row(each) for each in results.contrasts])}" if results.contrasts else "")


def metrics_markdown(results: Results) -> str:
    """A row per arm with all metrics in points of 100, and 95 % intervals over seeds in brackets."""
    rows = [{"arm": arm.name} | {name: _with_interval(arm, name) for name in METRICS} for arm in results.arms]
    return _table(rows, always=("arm",))


def write_csv(results: Results, path: Path) -> None:
    """Write a row per run, with every learning rate: arm, seed, lr, status, reason, metrics, seconds, costs.

    Metrics are in [0, 1] as in ``result.json``; those with recomputed batch-norm statistics end in ``_population``.
    ``chosen`` is 1 for runs with their arm's chosen learning rate, ``compared`` for those that the verdicts are about;
    ``validation`` is the metric that it was chosen by.
    """
    rows = [_csv_row(arm, run, results.metric) for arm in results.arms for run in arm.runs]
    extra = sorted({name for row in rows for name in row if name.endswith("_population")})
    columns = ["arm", "seed", "lr", "chosen", "compared", "status", "reason", *METRICS, *extra]
    columns += ["validation", "seconds", "seconds_to_target", "parameters", "peak_memory_mib", "device", "commit"]
    write_rows(path, [*columns, "folder"], rows)


def _table(rows: Sequence[dict[str, str]], always: Sequence[str] = ()) -> str:
    """Markdown without empty columns, except those in ``always``."""
    columns = [name for name in rows[0] if name in always or any(row[name] != NOTHING for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    escapes = str.maketrans({"|": "\\|", "<": "&lt;", "\n": " "})
    return "\n".join(f"| {' | '.join(cell.translate(escapes) for cell in line)} |" for line in lines) + "\n"


def _markdown_row(arm: ArmResult, metric: str) -> dict[str, str]:
    costs, difference, other = arm.costs, arm.differences.get(metric), "AP50" if metric != "AP50" else "AP"
    row = {"arm": arm.name, metric: _with_interval(arm, metric), other: _with_interval(arm, other)}
    row |= dict.fromkeys(("difference", "all together", "over images", "p", "margin"), NOTHING)
    row |= _difference_cells(difference, arm.finding)
    reached = NOTHING
    if difference is not None and difference.images:
        row["over images"] = say.signed_interval(*difference.images)
    if arm.finding is not None and arm.verdict in ("equivalent", "undecided"):
        row["margin"] = f"±{say.plain_points(arm.finding.smallest_margin)}"
    if costs.seconds_to_target is not None:
        reached = f"{say.duration(costs.seconds_to_target)} ({costs.num_reached} of {len(arm.chosen_runs)})"
    return row | {
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
    verdict = NOTHING if contrast.finding is None else contrast.finding.verdict
    return {"contrast": contrast.name, **_difference_cells(contrast.difference, contrast.finding), "verdict": verdict}


def _difference_cells(difference: Difference | None, finding: Finding | None) -> dict[str, str]:
    cells = {"difference": NOTHING, "all together": NOTHING, "p": NOTHING}
    if difference is not None:
        gap = say.signed_interval(difference.low, difference.high)
        cells["difference"] = f"{say.signed_points(difference.paired.mean)} {gap}".strip()
    if finding is not None:
        cells |= {"all together": say.signed_interval(finding.low, finding.high), "p": say.p_value(finding.p)}
    return cells


def _with_interval(arm: ArmResult, metric: str) -> str:
    mean = arm.metrics.get(metric)
    return NOTHING if mean is None else f"{say.points(mean.mean)} {say.interval(mean)}".strip()


def _csv_row(arm: ArmResult, run: Run, metric: str) -> dict[str, Any]:
    result = run.result
    metrics, population = result.get("metrics", {}), result.get("metrics_population", {})
    return {
        "arm": run.arm,
        "seed": run.seed,
        "lr": run.lr,
        "chosen": int(run.lr == arm.lr),
        "compared": int(run.compared),
        "status": run.status,
        "reason": run.reason,
        **{name: metrics[name] for name in METRICS if name in metrics},
        **{f"{name}_population": population[name] for name in METRICS if name in population},
        "validation": result.get("metrics_validation", {}).get(metric, ""),
        "seconds_to_target": "" if run.seconds_to_target is None else run.seconds_to_target,
        **{name: result.get(name, "") for name in ("seconds", "parameters", "peak_memory_mib", "device", "commit")},
        "folder": run.folder,
    }
