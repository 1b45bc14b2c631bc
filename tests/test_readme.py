"""The README's Python blocks run, and what it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_python_block_of_the_readme_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_the_readme_has_blocks_to_run():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("name", sorted(set(re.findall(r"(?:configs|scripts|docs|ssdnorm)/[\w/]+\.\w+", README))))
def test_a_file_that_the_readme_names_is_there(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:data|models|layers|boxes|losses|metrics)/\w+\.py)`", README)))
)
def test_a_source_that_the_readme_names_is_there(name):
    assert (ROOT / "ssdnorm" / name).exists()


def test_every_make_command_of_the_pages_is_a_target_that_always_runs():
    pages = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    always = set(re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)[1].split())
    assert set(re.findall(r"\bmake (\w+)", pages)) == {"demo", "test", "check", "slow"}
    for target in ("demo", "test", "check", "slow"):
        assert target in always
        assert f"\n{target}:" in makefile


@pytest.mark.parametrize(
    ("name", "num_lines"), [("compare_bccd", 8), ("compare_bccd_pretrained", 7), ("compare_playing_cards_scratch", 7)]
)
def test_the_table_of_a_comparison_is_the_one_that_the_command_wrote(name, num_lines):
    written = (ROOT / "docs/results" / name / "table.md").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    assert len(written) == num_lines
    for line in [written[0], *written[2:]]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert f"| {' | '.join(cells[:7])} |" in README, "arm, AP, AP50, difference, over images, p and verdict"
