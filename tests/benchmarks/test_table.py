"""Tables and the page: goals by the numbers, Markdown and JSON that say the same."""

import json
from pathlib import Path

import pytest

from benchmarks.goals import GOALS, Goal
from benchmarks.table import Table, goals_table, read_tables, render_page, report, write_tables

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


@pytest.mark.parametrize(
    ("goal", "measured", "verdict"),
    [
        (Goal("a", 2.5), 2.5, "met"),
        (Goal("a", 2.5), 2.49, "not met"),
        (Goal("a", 60, at_most=True), 61, "not met"),
        (Goal("a", 0, at_most=True), 0, "met"),
        (Goal("a", 1400), None, "not measured"),
    ],
)
def test_a_goal_is_met_or_not_by_the_numbers(goal, measured, verdict):
    assert goal.verdict(measured) == verdict


def test_goals_are_written_with_sign_unit_and_what_they_need():
    table = Table("t", "", measured={"pipeline.v2": 3.14159, "loader.share": None, "operations.loss": 121})
    assert [line.split(" | ")[1:] for line in goals_table([table]).splitlines()[2:]] == [
        ["≥ 0.9", "–", "not measured", "needs a GPU |"],
        ["≥ 8 ×", "3.14 ×", "not met", "|"],
        ["≤ 120", "121", "not met", "|"],
    ]
    assert len(goals_table([table], all_goals=True).splitlines()) == 2 + len(GOALS)


def test_rows_may_have_different_columns():
    table = Table("t", "About.", [{"a": 1, "b": 0.0012345}, {"a": "x", "c": 123.456}])
    assert table.markdown().splitlines()[4:] == [
        "| a | b | c |",
        "|---|---|---|",
        "| 1 | 1.2e-03 |  |",
        "| x |  | 123.5 |",
    ]


def test_a_table_replaces_that_of_the_same_subject_and_device_and_leaves_others(tmp_path):
    cpu, gpu = {"device": "cpu", "commit": "a"}, {"device": "cuda", "commit": "b"}
    file = tmp_path / "new" / "page.json"
    write_tables(file, [Table(name, "old", machine=cpu) for name in ("loss", "voc")])
    write_tables(file, [Table("loss", "GPU", machine=gpu)])
    write_tables(file, [Table("loss", "new", [{"ms": 1.5}], {"loss.speed": 0.5}, machine=cpu)])
    tables = read_tables(file)
    assert [(table.name, table.about) for table in tables] == [("loss", "new"), ("voc", "old"), ("loss", "GPU")]
    text = report(tables)
    assert "- loss, voc: device cpu, commit a" in text
    assert "- loss: device cuda, commit b" in text
    assert "## loss, GPU" in text
    assert json.loads(file.read_text())[0]["rows"] == [{"ms": 1.5}]


def test_the_page_is_what_its_json_gives(tmp_path):
    copy = tmp_path / "performance.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    copy.with_suffix(".json").write_text(PAGE.with_suffix(".json").read_text(encoding="utf-8"), encoding="utf-8")
    render_page(copy)
    assert copy.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    assert {key for table in read_tables(PAGE.with_suffix(".json")) for key in table.measured} <= set(GOALS)


def test_a_page_without_marks_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(ValueError, match="between which the tables go"):
        render_page(tmp_path / "page.md")
