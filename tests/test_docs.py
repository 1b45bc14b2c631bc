"""README and the pages: their Python runs, the files, targets, commands and options that they name exist."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch

import ssdnorm
import ssdnorm.data
import ssdnorm.layers
import ssdnorm.metrics
from ssdnorm.cli import COMMANDS, main
from ssdnorm.compare.slurm_options import SlurmOptions
from ssdnorm.config import Config
from ssdnorm.validation import sections

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
}
BLOCKS = [
    pytest.param(block, id=f"{page}-{i}")
    for page, text in PAGES.items()
    if page != "docs/evaluation.md"  # tests/metrics/test_docs.py, which makes the files that it reads
    for i, block in enumerate(re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE), 1)
]
COMMAND_LINES = [
    (page, line.strip())
    for page, text in PAGES.items()
    for line in text.replace("\\\n", " ").splitlines()
    if re.match(r" *ssdnorm [a-z]+ -?-?\w", line)
]

KEYS = {
    *(f"--{f'{section}.{name}'.lstrip('.')}" for section, kinds in sections(Config).items() for kind in kinds
      for name in kind.model_fields),
    *(f"--slurm.{name}" for name in SlurmOptions.model_fields),
}  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
def test_a_python_block_runs(block, tmp_path, monkeypatch):
    if "timm" in block:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    exec(compile(textwrap.dedent(block), "docs", "exec"), {"__name__": "docs"})


def test_the_files_and_make_targets_that_the_readme_names_exist():
    text = PAGES["README.md"]
    links = re.findall(r"\]\((?!https?:)([\w./-]+)|(?:src|srcset)=\"([\w./-]+)\"", text)
    assert [name for pair in links if (name := "".join(pair)) and not (ROOT / name).exists()] == []
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:^|`)make (\w+)", "\n".join(PAGES.values()), re.MULTILINE)):
        assert f"\n{target}:" in makefile, target
        assert re.search(rf"^\.PHONY:.* {target}\b", makefile, flags=re.MULTILINE), "runs even if a file has its name"


def test_the_commands_of_the_pages_have_the_options_that_they_are_shown_with(capsys):
    assert len(COMMAND_LINES) > 20
    helps = {}
    for page, line in COMMAND_LINES:
        words = shlex.split(line, comments=True)[1:]
        assert words[0] in (*COMMANDS, "--help", "--version"), (page, line)
        if words[0] not in helps:
            with pytest.raises(SystemExit):
                main([words[0], "--help"])
            helps[words[0]] = capsys.readouterr().out
        for word in (word.partition("=")[0] for word in words if word.startswith("--")):
            key = word.replace("--base.", "--")
            known = re.search(rf"{re.escape(word)}\b", helps[words[0]]) or key in KEYS
            assert known, f"{page}: {line}: {word}"


def test_every_public_name_has_its_place_in_the_api_reference():
    listed = set(re.findall(r"^   ([\w.]+)$", PAGES["docs/api.md"], re.MULTILINE))
    assert set(ssdnorm.__all__) - {"__version__"} <= listed
    for module in (ssdnorm.layers, ssdnorm.metrics, ssdnorm.data):
        assert set(module.__all__) <= listed, set(module.__all__) - listed


def test_the_readme_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 110
