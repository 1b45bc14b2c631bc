"""Tables: the numbers of a comparison in Markdown and CSV."""

import csv

from ssdnorm.compare.tables import metrics_markdown, table_markdown, write_csv

from .synthetic import make_comparison, shapes


def rows_of(markdown: str) -> list[dict[str, str]]:
    first = markdown.strip().split("\n\n")[0]  # contrasts have a table of their own
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


def test_markdown_holds_each_arms_mean_interval_and_difference_in_points(whole):
    def around(low, high, form="+.2f"):
        return f"[{100 * low:{form}}, {100 * high:{form}}]".replace("-", "−")

    results = whole[0]
    rows = rows_of(table_markdown(results))
    assert [row["arm"] for row in rows] == ["l2_norm", "none", "batch_norm"]
    for arm, row in zip(results.arms, rows, strict=True):
        mean = arm.metrics["AP"]
        assert row["AP"] == f"{100 * mean.mean:.1f} {around(mean.low, mean.high, '.1f')}"
        assert row["verdict"] == arm.verdict
    difference, finding = results.arms[2].differences["AP"], results.arms[2].finding
    gap = around(difference.low, difference.high)
    assert rows[2]["difference"] == f"{100 * difference.paired.mean:+.2f} {gap}".replace("-", "−")
    assert rows[2]["over images"] == around(*difference.images)
    assert rows[2]["all together"] == around(finding.low, finding.high)
    assert (rows[1]["margin"], rows[2]["margin"]) == ("±0.00", "–"), "what is better is not equivalent"
    assert rows[0]["difference"] == rows[0]["over images"] == rows[0]["p"] == "–"

    rows = rows_of(metrics_markdown(results))
    assert set(rows[0]) == {"arm", *results.arms[0].metrics}
    mean = results.arms[2].metrics["AP75"]
    assert rows[2]["AP75"] == f"{100 * mean.mean:.1f} {around(mean.low, mean.high, '.1f')}"


def test_markdown_leaves_out_columns_of_which_nothing_is_known_and_keeps_pipes_inside_cells(tmp_path):
    results = make_comparison(
        tmp_path, arms=["a", "b|<c>"], seeds=[0], rates=[0.1], diverged=[("a", 0), ("b|<c>", 0)], test_set=shapes(2)
    )
    table = table_markdown(results)
    assert "latency" not in table
    assert "| p |" not in table
    assert "b\\|&lt;c>" in table


def test_csv_has_a_row_for_every_run_of_every_rate_with_its_metrics(whole, tmp_path):
    results = whole[0]
    write_csv(results, tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (3 + 2)
    runs = [run for arm in results.arms for run in arm.runs]
    for run, row in zip(runs, rows, strict=True):
        assert (row["arm"], int(row["seed"]), float(row["lr"])) == (run.arm, run.seed, run.lr)
        assert row["chosen"] == str(int(run.lr == 0.005))
        assert row["compared"] == str(int(run.lr == 0.005 and run.seed < 3))
        if run.status == "finished":
            assert float(row["AP50"]) == run.result["metrics"]["AP50"]
            assert row["validation"] == str(run.result.get("metrics_validation", {}).get("AP", ""))
            population = run.result.get("metrics_population")
            assert row["AP_population"] == ("" if population is None else str(population["AP"]))
    lost = next(row for row in rows if row["status"] == "diverged")
    assert (lost["arm"], lost["seed"], lost["AP"]) == ("none", "1", "")
    assert lost["reason"] == "loss is nan at step 340 <after a spike>"
