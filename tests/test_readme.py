"""The README's Python blocks run, and the files and commands that it names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_python_block_runs(block):
    exec(compile(block, "README.md", "exec"), {})


def test_the_files_and_make_targets_that_it_names_exist():
    assert len(BLOCKS) >= 3
    folders = r"(?:configs|scripts|docs|examples|benchmarks|ssdnorm)"
    files = set(re.findall(rf"{folders}/[\w/]+\.\w+", README))
    files |= {f"ssdnorm/{name}" for name in re.findall(r"`((?!scripts|configs)[a-z_]+/\w+\.py)`", README)}
    assert [name for name in sorted(files) if not (ROOT / name).exists()] == []
    pages = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake (\w+)", pages)) == {"demo", "test", "check", "slow"}
    for target in ("demo", "test", "check", "slow"):
        assert f"\n{target}:" in makefile
        assert re.search(rf"^\.PHONY:.* {target}\b", makefile, flags=re.MULTILINE), "runs even if a file has its name"
