"""Tables of a comparison: Markdown with a row per arm, CSV with a row per run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssdnorm.compare.formatting import (
    NOTHING,
    amount,
    duration,
    interval,
    p_value,
    points,
    signed_interval,
    signed_points,
)
from ssdnorm.compare.results import METRICS, ArmResult, Results, Run


def table_markdown(results: Results) -> str:
    """A row per arm: the metric with its interval, the difference to the baseline, the verdict, AP50, costs.

    Metrics are in points of 100, with 95 % intervals over seeds in brackets. Empty columns are left out.
    """
    metric = results.metric
    other = "AP50" if metric != "AP50" else "AP"
    return _table([_markdown_row(arm, metric, other) for arm in results.arms], always=("arm", metric))


def metrics_markdown(results: Results) -> str:
    """A row per arm with all metrics in points of 100, and 95 % intervals over seeds in brackets."""
    return _table(
        [{"arm": arm.name} | {name: _with_interval(arm, name) for name in METRICS} for arm in results.arms],
        always=("arm",),
    )


def write_csv(results: Results, path: Path) -> None:
    """Write a row per run, with every learning rate: arm, seed, lr, status, reason, metrics, seconds, costs.

    Metrics are in [0, 1] as in ``result.json``; those with recomputed batch-norm statistics end in ``_population``.
    ``chosen`` is 1 for runs with their arm's chosen learning rate; ``validation`` is the metric that it was chosen by.
    """
    rows = [_csv_row(arm, run, results.metric) for arm in results.arms for run in arm.runs]
    extra = sorted({name for row in rows for name in row if name.endswith("_population")})
    columns = ["arm", "seed", "lr", "chosen", "status", "reason", *METRICS, *extra]
    columns += ["validation", "seconds", "seconds_to_target", "parameters", "peak_memory_mib", "device", "commit"]
    columns += ["folder"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: Sequence[dict[str, str]], always: Sequence[str]) -> str:
    """Markdown without empty columns, except those in ``always``."""
    columns = [name for name in rows[0] if name in always or any(row[name] != NOTHING for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(_escape(cell) for cell in line)} |" for line in lines) + "\n"


def _markdown_row(arm: ArmResult, metric: str, other: str) -> dict[str, str]:
    difference = arm.differences.get(metric)
    costs = arm.costs
    row = {"arm": arm.name, metric: _with_interval(arm, metric), other: _with_interval(arm, other)}
    row["difference"] = row["over images"] = row["p (Holm)"] = NOTHING
    if difference is not None:
        paired = difference.paired
        row["difference"] = f"{signed_points(paired.mean)} {signed_interval(paired.low, paired.high)}".strip()
        row["over images"] = signed_interval(*difference.images) if difference.images else NOTHING
        row["p (Holm)"] = p_value(difference.p_holm)
    return row | {
        "verdict": arm.verdict,
        "seeds": str(len(arm.chosen_runs)),
        "lr": f"{arm.lr:g}",
        "parameters": amount(costs.parameters),
        "GFLOPs": amount(costs.gflops),
        "training img/s": amount(costs.images_per_second),
        "memory MiB": amount(costs.peak_memory_mib),
        "latency ms": amount(costs.latency_ms),
        "to target": _time_to_target(arm),
    }


def _time_to_target(arm: ArmResult) -> str:
    """Mean over the seeds that reached it, and their number."""
    costs, num_seeds = arm.costs, sum(run.lr == arm.lr for run in arm.runs)
    if costs.seconds_to_target is None:
        return NOTHING
    return f"{duration(costs.seconds_to_target)} ({costs.num_reached} of {num_seeds})"


def _with_interval(arm: ArmResult, metric: str) -> str:
    mean = arm.metrics.get(metric)
    return NOTHING if mean is None else f"{points(mean.mean)} {interval(mean)}".strip()


def _csv_row(arm: ArmResult, run: Run, metric: str) -> dict[str, Any]:
    result = run.result
    metrics = {name: value for name, value in result.get("metrics", {}).items() if name in METRICS}
    population = {f"{name}_population": value for name, value in result.get("metrics_population", {}).items()}
    return {
        "arm": run.arm,
        "seed": run.seed,
        "lr": run.lr,
        "chosen": int(run.lr == arm.lr),
        "status": run.status,
        "reason": run.reason,
        **metrics,
        **{name: value for name, value in population.items() if name.removesuffix("_population") in METRICS},
        "validation": result.get("metrics_validation", {}).get(metric, ""),
        "seconds_to_target": "" if run.seconds_to_target is None else run.seconds_to_target,
        **{name: result.get(name, "") for name in ("seconds", "parameters", "peak_memory_mib", "device", "commit")},
        "folder": run.folder,
    }


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
