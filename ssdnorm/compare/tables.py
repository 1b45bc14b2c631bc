"""Tables of a comparison: Markdown with a row per arm, CSV with a row per run."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssdnorm.compare import formatting as say
from ssdnorm.compare.formatting import NOTHING
from ssdnorm.compare.results import METRICS, ArmResult, Results, Run
from ssdnorm.files import replaced_file


def table_markdown(results: Results) -> str:
    """A row per arm: the metric with its interval, the difference to the baseline, the verdict, AP50, costs.

    Metrics are in points of 100, with 95 % intervals over seeds in brackets. Empty columns are left out.
    """
    return _table([_markdown_row(arm, results.metric) for arm in results.arms], always=("arm", results.metric))


def metrics_markdown(results: Results) -> str:
    """A row per arm with all metrics in points of 100, and 95 % intervals over seeds in brackets."""
    rows = [{"arm": arm.name} | {name: _with_interval(arm, name) for name in METRICS} for arm in results.arms]
    return _table(rows, always=("arm",))


def write_csv(results: Results, path: Path) -> None:
    """Write a row per run, with every learning rate: arm, seed, lr, status, reason, metrics, seconds, costs.

    Metrics are in [0, 1] as in ``result.json``; those with recomputed batch-norm statistics end in ``_population``.
    ``chosen`` is 1 for runs with their arm's chosen learning rate; ``validation`` is the metric that it was chosen by.
    """
    rows = [_csv_row(arm, run, results.metric) for arm in results.arms for run in arm.runs]
    extra = sorted({name for row in rows for name in row if name.endswith("_population")})
    columns = ["arm", "seed", "lr", "chosen", "status", "reason", *METRICS, *extra]
    columns += ["validation", "seconds", "seconds_to_target", "parameters", "peak_memory_mib", "device", "commit"]
    with replaced_file(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, "folder"], restval="")
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: Sequence[dict[str, str]], always: Sequence[str]) -> str:
    """Markdown without empty columns, except those in ``always``."""
    columns = [name for name in rows[0] if name in always or any(row[name] != NOTHING for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[name] for name in columns] for row in rows)]
    escapes = str.maketrans({"|": "\\|", "<": "&lt;", "\n": " "})
    return "\n".join(f"| {' | '.join(cell.translate(escapes) for cell in line)} |" for line in lines) + "\n"


def _markdown_row(arm: ArmResult, metric: str) -> dict[str, str]:
    costs, difference, other = arm.costs, arm.differences.get(metric), "AP50" if metric != "AP50" else "AP"
    row = {"arm": arm.name, metric: _with_interval(arm, metric), other: _with_interval(arm, other)}
    row["difference"] = row["over images"] = row["p (Holm)"] = reached = NOTHING
    if difference is not None:
        paired = difference.paired
        row["difference"] = f"{say.signed_points(paired.mean)} {say.signed_interval(paired.low, paired.high)}".strip()
        row["over images"] = say.signed_interval(*difference.images) if difference.images else NOTHING
        row["p (Holm)"] = say.p_value(difference.p_holm)
    if costs.seconds_to_target is not None:
        reached = f"{say.duration(costs.seconds_to_target)} ({costs.num_reached} of {len(arm.chosen_runs)})"
    return row | {
        "verdict": arm.verdict,
        "seeds": str(len(arm.finished_runs)),
        "lr": f"{arm.lr:g}",
        "parameters": say.amount(costs.parameters),
        "GFLOPs": say.amount(costs.gflops),
        "training img/s": say.amount(costs.images_per_second),
        "memory MiB": say.amount(costs.peak_memory_mib),
        "latency ms": say.amount(costs.latency_ms),
        "to target": reached,
    }


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
        "status": run.status,
        "reason": run.reason,
        **{name: metrics[name] for name in METRICS if name in metrics},
        **{f"{name}_population": population[name] for name in METRICS if name in population},
        "validation": result.get("metrics_validation", {}).get(metric, ""),
        "seconds_to_target": "" if run.seconds_to_target is None else run.seconds_to_target,
        **{name: result.get(name, "") for name in ("seconds", "parameters", "peak_memory_mib", "device", "commit")},
        "folder": run.folder,
    }
