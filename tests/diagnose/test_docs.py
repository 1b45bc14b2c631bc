"""docs/diagnose.md: its Python runs, its options and figures are there."""

import re
from pathlib import Path

import pytest

from ssdnorm.cli import main
from ssdnorm.diagnose import batch_norm_advice

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "diagnose.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_python_block_runs(block, capsys):
    exec(compile(block, "docs/diagnose.md", "exec"), {})
    assert capsys.readouterr().out


def test_every_option_of_the_command_lines_is_one_of_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["diagnose", "--help"])
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    lines = [line for line in TEXT.splitlines() if line.startswith("python scripts/diagnose.py")]
    assert len(lines) >= 8
    assert set(re.findall(r"--[a-z][a-z-]*", "\n".join(lines))) <= known


@pytest.mark.parametrize("name", re.findall(r"\]\((figures/[\w.]+)\)", TEXT))
def test_a_figure_is_there_and_small(name):
    assert 0 < (DOCS / name).stat().st_size < 150_000


def test_the_thresholds_in_the_docs_are_those_of_the_code():
    table = TEXT[TEXT.index("| threshold | why |") :]
    assert f"mean off by {batch_norm_advice.MEAN_SHIFT:g} σ" in table
    assert f"variance off by a factor of {batch_norm_advice.VARIANCE_RATIO:g}" in table
    assert f"expected error of a variance {batch_norm_advice.VARIANCE_NOISE:.0%}".replace("%", " %") in table
    assert f"output off by {batch_norm_advice.OUTPUT_DISTANCE:.0%}".replace("%", " %") in table
    assert f"output changed by {batch_norm_advice.SAME_OUTPUT:.0e}".replace("e-0", "e-") in table
