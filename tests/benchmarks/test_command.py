"""The benchmark command: what it prints and writes, and what it refuses."""

from functools import partial

import pytest
import torch

from benchmarks import loss, voc
from benchmarks.command import GPU_SUBJECTS
from benchmarks.table import Table, read_tables
from ssdnorm.cli import main as _main

main = partial(_main, known={"benchmark": "benchmarks.command"})


@pytest.fixture
def two_tables(monkeypatch):
    seen = []
    monkeypatch.setattr(
        loss, "measure", lambda settings: seen.append(settings) or Table("loss", "A.", [], {"loss.speed": 0.5})
    )
    monkeypatch.setattr(voc, "measure", lambda settings: torch.ones(2) @ torch.ones(3))
    return seen


def test_tables_are_printed_and_written_and_put_into_a_page(two_tables, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- benchmark: begin -->\nstale figures\n<!-- benchmark: end -->\nAfter.\n")
    words = ["--only", "loss", "--quick", "--output", str(tmp_path / "out"), "--page", str(page)]
    assert main(["benchmark", *words]) == 0
    line = "| loss, forward and backward, over torchvision's, slowest row | ≥ 1 × | 0.50 × | not met | |"
    assert line in capsys.readouterr().out
    assert line in page.read_text()
    assert "stale figures" not in page.read_text()
    assert page.read_text().endswith("<!-- benchmark: end -->\nAfter.\n")
    assert line in (tmp_path / "out" / "benchmark.md").read_text()
    (table,) = read_tables(tmp_path / "page.json")
    assert (table.measured, table.machine["threads"], table.machine["device"]) == ({"loss.speed": 0.5}, 1, "cpu")
    assert two_tables[0].quick
    before = page.read_text()
    assert main(["benchmark", "--only", "--page", str(page)]) == 0  # renders only
    assert (page.read_text(), len(two_tables)) == (before, 1)


def test_a_subject_that_fails_is_named_at_the_end_and_the_others_are_written(two_tables, tmp_path, capsys):
    assert main(["benchmark", "--only", "voc", "loss", "--output", str(tmp_path)]) == 2
    assert "could not be measured: voc" in capsys.readouterr().err
    assert [table.failed for table in read_tables(tmp_path / "benchmark.json")] == [True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "l3_norm"], "--only: unknown subject 'l3_norm'; choose some of: startup, training_step"),
        (["--workers", "4"], "--workers: no chosen subject reads it; loader would"),
        (["--only", "loader", "--workers", "-1"], "--workers: must be 0 or more; got -1"),
        (["--only", "loss", "--images", "."], "--images: no chosen subject reads it; pipeline, predict, loader"),
        (["--threads", "0"], "--threads: must be 1 or more; got 0"),
        (["--fast"], "--fast: ssdnorm benchmark has no such option; see --help"),
        (["--page", "nowhere.md"], "--page: nowhere.md is not there"),
        (["--only", "loss", "--device", "meta"], "--device: meta computes nothing"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(words, message, capsys):
    assert main(["benchmark", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_measurements_are_refused(capsys):
    assert main(["benchmark", "--device", "cuda", "--only", GPU_SUBJECTS[0]]) == 2
    assert "--device: 'cuda' cannot be used here" in capsys.readouterr().err
