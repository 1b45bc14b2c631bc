"""The demonstrations run as files; their pages hold what the JSON beside the figures gives."""

import json
import re
import subprocess
import sys
from pathlib import Path

import demonstration
import pytest
import torch
from demonstration import NAMES, Demonstration, find, for_json, generator, main, rendered, run

from ssdnorm.plots.style import panels

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docs" / "lab"


def page_of(name):
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_what_its_json_gives(name):
    assert rendered(find(name), FOLDER / f"{name}.md") == page_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_its_parts_and_shows_the_figures_that_the_json_draws(name):
    text = page_of(name)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "What is asked",
        "What is seen",
        "What this does not show",
        "Sources",
    ]
    assert f"python examples/lab/{name.replace('-', '_')}.py" in text
    assert f"({name}.md)" in (FOLDER / "README.md").read_text(encoding="utf-8")
    numbers = json.loads((FOLDER / "figures" / f"{name}.json").read_text(encoding="utf-8"))
    shown = set(re.findall(r"\]\(figures/([\w.-]+\.png)\)", text))
    assert shown == {f"{name}_{figure}.png" for figure in find(name).draw(numbers)}
    assert shown == {path.name for path in (FOLDER / "figures").glob(f"{name}_*.png")}
    assert all((FOLDER / "figures" / figure).stat().st_size < 150_000 for figure in shown)


@pytest.fixture
def tiny(monkeypatch):
    def measure(*, seed, progress):
        return {"seed": seed, "items": list(progress([1, 2]))}

    tiny = Demonstration("tiny", "Is it tiny?", measure, lambda numbers: {"dot": panels(height=1.0)[0]}, json.dumps)
    monkeypatch.setattr(demonstration, "find", lambda name: tiny)
    return tiny


def test_a_demonstration_writes_figures_numbers_and_its_page(tiny, tmp_path, capsys):
    folder = tmp_path / "figures"
    assert run(tiny, ["--output", str(folder), "--seed", "3"]) == 0
    assert json.loads((folder / "tiny.json").read_text()) == {"seed": 3, "items": [1, 2]}
    assert (folder / "tiny_dot.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.split() == [str(folder / "tiny.json"), str(folder / "tiny_dot.png")]
    page = tmp_path / "tiny.md"
    page.write_text("a <!-- numbers: begin -->stale<!-- numbers: end --> b")
    assert main(["dropout", "--page", str(page)]) == 0
    assert page.read_text() == ('a <!-- numbers: begin -->\n\n{"seed": 3, "items": [1, 2]}\n\n<!-- numbers: end --> b')


def test_a_mistake_ends_in_one_line_and_code_2(tiny, tmp_path, capsys):
    (tmp_path / "page.md").write_text("no marks")
    for words, message in (
        (["deep-mpl"], "unknown demonstration 'deep-mpl'; choose one of: deep-mlp"),
        (["deep-mpl"], "Did you mean 'deep-mlp'?"),
        (["dropout", "--seed", "-1"], "--seed: must be 0 or more; got -1"),
        (["dropout", "--page", str(tmp_path / "page.md")], "between which the tables go"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_without_a_name_the_demonstrations_are_listed_with_their_questions(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMES)
    assert all(line.endswith("?") for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["examples/lab/train_eval_gap.py", "--seed", "-1"], "--seed: must be 0 or more"),
        (["scripts/lab.py", "deep-mpl"], "unknown demonstration 'deep-mpl'"),
    ],
)
def test_a_file_of_the_lab_and_the_script_run_by_themselves(words, message):
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_what_is_not_finite_becomes_null_and_keys_become_text():
    numbers = {0.5: [float("inf"), 1, "x"], "t": torch.tensor([[1.25], [float("nan")]])}
    assert json.loads(json.dumps(for_json(numbers), allow_nan=False)) == {"0.5": [None, 1, "x"], "t": [[1.25], [None]]}


def test_random_numbers_depend_on_the_seed_alone():
    first = torch.rand(3, generator=generator(7))
    torch.rand(5)
    assert torch.equal(torch.rand(3, generator=generator(7)), first)
