"""The Python of docs/evaluation.md runs as it stands there, on smaller data."""

import json
import re
from pathlib import Path

import pytest

from ssdnorm.cli import main

from .random_sets import draw_set

TEXT = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    truth, found = draw_set(1)
    (tmp_path / "instances_val2017.json").write_text(json.dumps(truth))
    (tmp_path / "detections.json").write_text(json.dumps(found))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block {number}" for number in range(len(BLOCKS))])
def test_every_block_runs(block, capsys):
    smaller = block.replace("quick=False", "quick=True")
    exec(compile(smaller, "docs/evaluation.md", "exec"), {})
    assert capsys.readouterr().out.count("\n") >= 3


def test_the_keys_of_the_result_file_are_those_in_the_docs():
    words = ["--annotations", "instances_val2017.json", "--output", "out"]
    assert main(["evaluate", "--detections", "detections.json", *words]) == 0
    listed = TEXT[TEXT.index("`result.json` holds") : TEXT.index("It is written last")]
    assert set(json.loads(Path("out/result.json").read_text())) - {"threads"} == set(re.findall(r"`([a-z_]+)`", listed))
