"""The benchmark command: its goals' words, its tables, its refusals."""

import pytest

from ssdnorm.bench.fold import fold_table, measure_fold
from ssdnorm.bench.l2_norm import l2_norm_goals, l2_norm_table, measure_l2_norm
from ssdnorm.cli import main


def test_goals_are_met_or_not_by_the_numbers():
    row = {"memory_format": "channels_last", "saved_mb": 10.05}
    rows = [
        {**row, "candidate": "L2Norm", "forward_speedup": 1.4, "forward_backward_speedup": 1.79},
        {**row, "candidate": "L2Norm", "memory_format": "contiguous", "forward_speedup": 0.1},
    ]
    assert l2_norm_goals(rows, input_mb=10.0).splitlines()[2:] == [
        "| L2Norm, forward | ≥ 1.4 × | 1.40 × | met |",
        "| L2Norm, forward+backward | ≥ 1.8 × | 1.79 × | not met |",
        "| L2Norm, kept | the input, 10.0 MB | 10.1 MB | met |",
    ]


def test_all_candidates_are_in_the_table_in_both_memory_formats():
    table = l2_norm_table(measure_l2_norm((1, 8, 4, 4), repeats=2, compiled=False))
    for candidate in ("amdegroot", "F.normalize * w", "L2Norm", "copy"):
        assert table.count(f"| {candidate} |") == 2


def test_folding_keeps_the_output_and_takes_every_norm_out():
    (row,) = measure_fold(width=0.02, batch_sizes=(1,), repeats=2)
    assert row["difference"] < 1e-4
    assert row["norms"] == 23
    assert "| 23 |" in fold_table([row])


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--repeats", "0"], "--repeats: must be 1 or more; got 0"), (["--fast"], "unknown argument '--fast'")],
)
def test_a_mistake_ends_in_one_line_and_code_2(words, message, capsys):
    assert main(["benchmark", *words]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_table_is_refused_with_the_choices(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "--only", "l3_norm"])
    assert "l2_norm" in capsys.readouterr().err
