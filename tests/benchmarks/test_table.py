"""Tables of measurements: goals by the numbers, turns in turns, files that say the same."""

import json
import sys

import pytest
import torch

from benchmarks.table import Goal, Table, Times, goals_table, interleaved, machine, write_tables


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (Goal("a", 2.5, 2.5), "met"),
        (Goal("a", 2.5, 2.49), "not met"),
        (Goal("a", 60, 61, at_most=True), "not met"),
        (Goal("a", 0, 0, at_most=True), "met"),
        (Goal("a", 1400, None, note="no GPU here"), "not measured"),
    ],
)
def test_a_goal_is_met_or_not_by_the_numbers(goal, verdict):
    assert goal.verdict == verdict


def test_goals_are_written_with_sign_unit_and_note():
    goals = [Goal("speed", 2.5, 3.14159), Goal("kernels", 60, None, unit="", at_most=True, note="no GPU here")]
    assert goals_table(goals).splitlines()[2:] == [
        "| speed | ≥ 2.5 × | 3.14 × | met | |",
        "| kernels | ≤ 60 | – | not measured | no GPU here |",
    ]


def test_candidates_take_turns_and_warm_up_does_not_count():
    calls = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, warm_up=2)
    assert calls == ["a", "b"] * 5
    assert [len(times.seconds[name]) for name in "ab"] == [3, 3]


def test_when_time_is_up_the_first_counted_round_is_still_run():
    times = interleaved({"a": lambda: None}, repeats=50, warm_up=1, at_most_s=0)
    assert len(times.seconds["a"]) == 1


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    times = Times({"peer": [1.0, 4.0, 9.0], "ours": [1.0, 1.0, 3.0]})
    assert times.ratio("peer", "ours") == 3.0  # of 1, 4, 3
    assert times.ms("peer") == 4000.0


def test_rows_may_have_different_columns():
    table = Table("t", "About.", [{"a": 1, "b": 0.0012345}, {"a": "x", "c": 123.456}])
    assert table.markdown().splitlines()[4:] == [
        "| a | b | c |",
        "|---|---|---|",
        "| 1 | 1.2e-03 |  |",
        "| x |  | 123.5 |",
    ]


def test_markdown_and_json_say_the_same(tmp_path):
    write_tables(tmp_path / "new", [Table("t", "About.", [{"ms": 1.5}], [Goal("speed", 2, 1.5)])], machine())
    written = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert written["tables"][0]["rows"] == [{"ms": 1.5}]
    assert written["tables"][0]["goals"][0]["verdict"] == "not met"
    assert written["about"]["torch"].startswith("2.")
    text = (tmp_path / "new" / "benchmark.md").read_text()
    assert "| speed | ≥ 2 × | 1.50 × | not met | |" in text
    assert f"- torch: {written['about']['torch']}" in text


def test_a_gpu_is_named_with_the_versions_of_its_software(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91400)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine()["driver"] == "unknown"
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nprint('580.65.06\\n580.65.06')\n")
    program.chmod(0o755)
    about = machine()
    assert (about["gpu"], about["driver"], about["cuda"]) == ("NVIDIA H200", "580.65.06", torch.version.cuda)
    assert about["cudnn"] == 91400


def test_without_a_gpu_no_versions_of_it_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    about = machine()
    assert about["gpu"] is None
    assert "driver" not in about
