"""The benchmark command: tables and goals by the numbers, files, refusals."""

import json

import pytest
import torch

from ssdnorm.bench import fold, kernels, l2_norm, loss, post_process
from ssdnorm.bench.l2_norm import l2_norm_goals, measure_l2_norm
from ssdnorm.bench.table import Goal, Settings, Table
from ssdnorm.cli import main

QUICK = Settings(quick=True)


def test_the_goals_of_l2_norm_are_read_from_the_channels_last_rows():
    row = {"memory_format": "channels_last", "kept_mb": 10.05}
    rows = [
        {**row, "candidate": "L2Norm", "forward_times_faster": 1.4, "both_times_faster": 1.79},
        {**row, "candidate": "L2Norm", "memory_format": "contiguous", "forward_times_faster": 0.1},
    ]
    assert [goal.verdict for goal in l2_norm_goals(rows[:1], input_mb=10.0)] == [
        "met",
        "not met",
        "not measured",
        "not measured",
        "met",
    ]


def test_all_candidates_are_measured_in_both_memory_formats():
    rows = measure_l2_norm(QUICK, (1, 8, 4, 4), repeats=2, compiled=False)
    for memory_format in ("channels_last", "contiguous"):
        names = [row["candidate"] for row in rows if row["memory_format"] == memory_format]
        assert names == ["amdegroot", "F.normalize * w", "L2Norm", "copy"]
    assert all(row["forward_times_faster"] == 1 for row in rows if row["candidate"] == "amdegroot")


def test_folding_keeps_the_output_and_takes_every_norm_out():
    row = fold.measure_fold(QUICK, width=0.02)
    assert row["difference"] < 1e-4
    assert row["norms_folded"] == 23


def test_the_losses_table_compares_with_torchvisions(monkeypatch):
    monkeypatch.setattr(loss, "_CASES", ((2, 5, 1e9), (1, 5, 0.0)))
    table = loss.measure(QUICK)
    assert [goal.verdict for goal in table.goals] == ["not met", "met"]
    assert all(row["difference"] < 1e-4 for row in table.rows)
    assert len(table.notes) == 1
    assert "_log_softmax" in table.notes[0]  # the profile of the goal that is missed


def test_the_post_processing_finds_what_torchvisions_finds(monkeypatch):
    monkeypatch.setattr(post_process, "_CASES", ((5, 10, 0.0), (5, None, 0.0)))
    assert [row["same"] for row in post_process.measure(QUICK).rows] == ["yes", "yes"]


def test_kernels_and_waits_stay_within_their_goals_at_every_batch_size(monkeypatch):
    monkeypatch.setattr(kernels, "_NUM_CLASSES", 21)
    table = kernels.measure(QUICK)
    assert [goal.verdict for goal in table.goals] == ["met"] * 4
    assert {goal.note for goal in table.goals} == {"the same at every batch size"}
    assert table.rows[1]["torchvision_kernels"] > 3 * table.rows[1]["kernels"]


@pytest.fixture
def two_tables(monkeypatch):
    monkeypatch.setattr(l2_norm, "measure", lambda settings: Table("l2_norm", "A.", goals=[Goal("speed", 2, 1.5)]))
    monkeypatch.setattr(fold, "measure", lambda settings: torch.ones(2) @ torch.ones(3))


def test_tables_are_printed_and_written_and_put_into_a_page(two_tables, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- benchmark: begin -->\nold\n<!-- benchmark: end -->\nAfter.\n")
    assert main(["benchmark", "--only", "l2_norm", "--output", str(tmp_path / "out"), "--page", str(page)]) == 0
    line = "| speed | ≥ 2 × | 1.50 × | not met | |"
    assert line in capsys.readouterr().out
    assert line in page.read_text()
    assert "old" not in page.read_text()
    assert page.read_text().endswith("<!-- benchmark: end -->\nAfter.\n")
    written = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert written["tables"][0]["goals"][0]["verdict"] == "not met"
    assert written["about"]["threads"] == 1


def test_a_table_that_fails_is_named_at_the_end_and_the_others_are_written(two_tables, tmp_path, capsys):
    assert main(["benchmark", "--only", "fold", "l2_norm", "--output", str(tmp_path)]) == 2
    assert "could not be measured: fold" in capsys.readouterr().err
    tables = json.loads((tmp_path / "benchmark.json").read_text())["tables"]
    assert [table["failed"] for table in tables] == [True, False]


def test_a_page_without_marks_is_refused(two_tables, tmp_path, capsys):
    (tmp_path / "page.md").write_text("no marks")
    assert main(["benchmark", "--only", "l2_norm", "--page", str(tmp_path / "page.md")]) == 2
    assert "between which the tables go" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threads", "0"], "--threads: must be 1 or more; got 0"),
        (["--fast"], "unknown argument '--fast'"),
        (["--page", "nowhere.md"], "--page: nowhere.md is not there"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(words, message, capsys):
    assert main(["benchmark", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_tables_are_refused(capsys):
    assert main(["benchmark", "--gpu"]) == 2
    assert "PyTorch sees no GPU here" in capsys.readouterr().err


def test_an_unknown_table_is_refused_with_the_choices(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "--only", "l3_norm"])
    assert "l2_norm" in capsys.readouterr().err
