"""The lab command: its list, its files, its refusals."""

import json
from functools import partial

import pytest

from examples.lab.catalogue import DEMONSTRATIONS
from examples.lab.demonstration import Demonstration
from examples.lab.figures import panels
from ssdnorm.cli import main as _main

main = partial(_main, known={"lab": "examples.lab.command"})


@pytest.fixture
def tiny(monkeypatch):
    def measure(*, seed, progress):
        return {"seed": seed, "items": list(progress([1, 2]))}

    demonstration = Demonstration("Is it tiny?", measure, lambda numbers: {"dot": panels(1, 1, 1.0)[0]})
    monkeypatch.setitem(DEMONSTRATIONS, "tiny", demonstration)


@pytest.mark.parametrize("words", [[], ["--list"]])
def test_without_a_name_the_demonstrations_are_listed_with_their_questions(words, capsys):
    assert main(["lab", *words]) == 0
    listed = capsys.readouterr().out
    for name, demonstration in DEMONSTRATIONS.items():
        assert name in listed
        assert demonstration.question in listed


def test_a_demonstration_leaves_its_figures_and_its_numbers(tiny, tmp_path, capsys):
    assert main(["lab", "tiny", "--output", str(tmp_path / "new"), "--seed", "3"]) == 0
    assert json.loads((tmp_path / "new" / "tiny.json").read_text()) == {"seed": 3, "items": [1, 2]}
    assert (tmp_path / "new" / "tiny_dot.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / f"tiny{end}") for end in ("_dot.png", ".json")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["deep-mpl"], "unknown demonstration 'deep-mpl'; choose one of: deep-mlp"),
        (["deep-mpl"], "Did you mean 'deep-mlp'?"),
        (["tiny", "--seed", "-1"], "--seed: must be 0 or more; got -1"),
        (["tiny", "--weights", "vgg.npz"], "--weights: tiny takes none; only l2norm does"),
        (["tiny", "--fast"], "unknown argument '--fast'"),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(words, message, tiny, tmp_path, capsys):
    assert main(["lab", *words, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
